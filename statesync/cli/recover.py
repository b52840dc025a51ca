"""Owns `statesync recover`: the settling of a loss by hand."""

from __future__ import annotations

import sys
from typing import Any

import click

from statesync.cli.common import as_json, connected, console, counts_of, print_json, progress_bar
from statesync.cli.losses import describe_loss
from statesync.durable.losses import NotLive
from statesync.lifecycle.recover import RecoveryReport, SettledPage
from statesync.lifecycle.recover import recover as recover_all
from statesync.lifecycle.scrub import PAGE_KEYS
from statesync.state.fields import printable

__all__ = ["recover"]

_LISTED = 20
"""More characters that are not live than this are counted, not listed; --json has all."""


@click.command()
@as_json
def recover(as_json: bool) -> None:
    """Compare everything live with PostgreSQL at once, after one of the servers went back in time.

    If PostgreSQL went back (a restored backup), what is live is saved again; until that is done,
    nothing is restored. If Redis went back (a lost tail, an old snapshot), PostgreSQL is right:
    what is live is recorded and set to its rows. Sweeps do the same by themselves, some seconds at
    a time. Safe to run twice; if it is cut off, run it again, or leave the rest to the sweeps. Exit
    status 1 if something is left.

    \b
    Examples:
      statesync recover
      statesync recover --json | jq '.not_live[].char_id'
    """
    with connected() as (orchestrator, settings), progress_bar() as bar:
        task = bar.add_task("comparing", total=None)

        def show(page: SettledPage) -> None:
            done = 0 if page.is_last else None
            bar.update(task, total=page.keys, advance=PAGE_KEYS, completed=done)

        report = recover_all(orchestrator, lease_us=settings.lease_us, progress=show)
    if as_json:
        print_json(_as_json(report))
    else:
        _print(report)
    if report.left:
        sys.exit(1)


def _as_json(report: RecoveryReport) -> dict[str, Any]:
    loss, not_live = _last(report)
    return {
        "characters": report.characters,
        "sessions": report.sessions,
        "differing": report.differing,
        "outcomes": dict(report.outcomes),
        "left": report.left,
        "not_saved": [item._asdict() for item in report.not_saved],
        "last_loss": loss and {k: v for k, v in loss.items() if k != "not_live"},
        "not_live": [item._asdict() for item in not_live],
        "done": not report.left,
    }


def _last(report: RecoveryReport) -> tuple[dict[str, Any] | None, list[NotLive]]:
    if not report.losses:
        return None, []
    return report.losses[0].as_json(), report.losses[0].not_live


def _print(report: RecoveryReport) -> None:
    loss, not_live = _last(report)
    lines = [
        describe_loss(loss),
        f"Compared {report.characters} characters and {report.sessions} sessions.",
        f"Not as in PostgreSQL: {report.differing} characters ({counts_of(report.outcomes)}).",
    ]
    if report.left:
        lines.append(f"Left: {report.left} could not be saved yet. Run it again.")
    for char_id, reason in report.not_saved[:_LISTED]:
        lines.append(f"  {char_id}: {printable(reason)}")
    if not_live:
        lines.append(
            f"Not live, and back at what PostgreSQL has: {len(not_live)} characters that "
            "had left at a newer version."
        )
    for char_id, evicted, row in not_live[:_LISTED]:
        left_at = "was deleted" if evicted is None else f"left at version {evicted}"
        lines.append(f"  {char_id}: {left_at}, PostgreSQL has {'no row' if row is None else row}")
    console.print("\n".join(lines), soft_wrap=True)
