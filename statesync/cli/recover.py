"""Owns `statesync recover`: the settling of a loss by hand."""

from __future__ import annotations

import sys
from typing import Any

import click

from statesync.cli.common import as_json, connected, counts_of, print_json, progress_bar, say
from statesync.cli.losses import (
    describe_left,
    describe_loss,
    describe_not_live,
    loss_as_json,
)
from statesync.lifecycle.recover import RecoveryReport, SettledPage
from statesync.lifecycle.recover import recover as recover_all
from statesync.lifecycle.scrub import PAGE_KEYS

__all__ = ["recover"]


@click.command()
@as_json
def recover(as_json: bool) -> None:
    """Compare everything live with PostgreSQL at once, after one of the servers went back in time.

    If PostgreSQL went back (a restored backup), what is live is saved again; until that is done,
    nothing is restored. If Redis went back (a lost tail, an old snapshot), PostgreSQL is right:
    what is live is recorded and set to its rows. Sweeps do the same by themselves, some seconds at
    a time. Safe to run twice; if it is cut off, run it again, or leave the rest to the sweeps.
    Then it shows the last ten losses, with the characters that were not live or are left. Exit
    status 1 if something is left.

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

        report = recover_all(orchestrator, lease_us=settings.lease_us, progress=show)
    if as_json:
        print_json(_as_json(report))
    else:
        _print(report)
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


def _print(report: RecoveryReport) -> None:
    lines = [
        f"Compared {report.characters} characters and {report.sessions} sessions.",
        f"Not as in PostgreSQL: {report.differing} characters ({counts_of(report.outcomes)}).",
    ]
    if report.left:
        lines.append(f"Left: {report.left} could not be saved yet. Run it again.")
        lines += describe_left(report.not_saved)
    if not report.losses:
        lines.append("No server went back in time, as far as is on record.")
    for loss in report.losses:
        lines += [describe_loss(loss), *describe_not_live(loss.not_live)]
        lines += describe_left([one for one in loss.left if one not in report.not_saved])
    for line in lines:
        say(line)
