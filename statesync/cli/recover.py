"""Owns `statesync recover`: the settling of a loss by hand."""

from __future__ import annotations

import sys
from typing import Any

import click

from statesync.cli.common import (
    as_json,
    connected,
    counts_of_backups,
    print_json,
    progress_bar,
    say,
)
from statesync.durable.losses import Loss
from statesync.lifecycle.recover import RecoveryReport, SettledPage
from statesync.lifecycle.recover import recover as recover_all
from statesync.lifecycle.scrub import PAGE_KEYS
from statesync.lifecycle.servers import losses
from statesync.observe.losses import (
    describe_left,
    describe_loss,
    describe_not_live,
    loss_as_json,
)

__all__ = ["recover"]


@click.command()
@as_json
def recover(as_json: bool) -> None:
    """Compare everything live with PostgreSQL at once, after one of the servers went back in time.

    If PostgreSQL went back (a restored backup), what is live is saved again; until that is done,
    nothing is restored. If Redis went back (a lost tail, an old snapshot), PostgreSQL is right:
    what is live is recorded and set to its rows. Sweeps do the same by themselves, some seconds at
    a time. Safe to run twice; if it is cut off, run it again, or leave the rest to the sweeps.
    Then it shows what is new in the record of losses, and the older ones of the last ten, with the
    characters that were not live or are left. Exit status 1 if something is left.

    \b
    Examples:
      statesync recover
      statesync recover --json | jq '.losses[].not_live[].char_id'
    """
    with connected() as (orchestrator, settings), progress_bar() as bar:
        task = bar.add_task("comparing", total=None)

        def show(page: SettledPage) -> None:
            done = 0 if page.is_last else None
            bar.update(task, total=page.keys, advance=PAGE_KEYS, completed=done)

        before = losses(orchestrator.hot, orchestrator.engine)
        report = recover_all(orchestrator, lease_us=settings.lease_us, progress=show)
    if as_json:
        print_json(_as_json(report))
    else:
        _print(report, before)
    if report.left:
        sys.exit(1)


def _as_json(report: RecoveryReport) -> dict[str, Any]:
    return {
        "characters": report.characters,
        "sessions": report.sessions,
        "differing": report.differing,
        "outcomes": dict(report.outcomes),
        "left": report.left,
        "not_saved": [item._asdict() for item in report.not_saved],
        "losses": [loss_as_json(loss) for loss in report.losses],
        "done": not report.left,
    }


def _print(report: RecoveryReport, before: list[Loss]) -> None:
    lines = [f"Compared {report.characters} characters and {report.sessions} sessions."]
    lines.append(_differing(report))
    if report.left:
        lines.append(f"Left: {report.left} could not be saved yet. Run it again.")
        lines += describe_left(report.not_saved)
    new = [loss for loss in report.losses if loss not in before]
    old = [loss for loss in report.losses if loss in before]
    if not report.losses:
        lines.append("No server went back in time, as far as is on record.")
    elif not new:
        lines.append("No new loss.")
    for loss in new:
        lines += _describe(loss, report)
    if old:
        lines.append("On record before this run:")
    for loss in old:
        lines += _describe(loss, report)
    for line in lines:
        say(line)


def _differing(report: RecoveryReport) -> str:
    """Say how many characters were not as their rows, and what has become of them."""
    parts = [counts_of_backups(report.outcomes)] if report.outcomes else []
    if undecided := max(0, report.differing - report.outcomes.total()):
        parts.append(f"{undecided} left to the next sweep or `statesync drain`, if dirty")
    became = f" ({', '.join(parts)})" if parts else ""
    return f"Not as in PostgreSQL: {report.differing} characters{became}."


def _describe(loss: Loss, report: RecoveryReport) -> list[str]:
    left = [one for one in loss.left if one not in report.not_saved]
    return [describe_loss(loss), *describe_not_live(loss.not_live), *describe_left(left)]
