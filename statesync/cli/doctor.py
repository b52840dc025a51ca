"""Owns `statesync doctor`: whether all is set up so that nothing is lost, and what to do if not."""

from __future__ import annotations

import sys

import click
from rich.text import Text

from statesync.cli.common import as_json, connected, console, print_json, table
from statesync.cli.turns import turn
from statesync.observe import checks
from statesync.observe.check import CheckStatus, Group
from statesync.observe.workers import Fleet

__all__ = ["doctor"]

_COLOURS = {CheckStatus.OK: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "red"}


@click.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(map(str, Group))),
    help="Check this alone; may be given several times.",
)
@as_json
def doctor(only: tuple[str, ...], as_json: bool) -> None:
    """Check servers, settings and processes, and say what to do if something is wrong.

    Exit status 1 if a check failed; warnings leave it 0.

    \b
    Examples:
      statesync doctor
      statesync doctor --only redis --only postgresql
      statesync doctor --json | jq '.[] | select(.status != "ok")'
    """
    with connected() as (orchestrator, settings):
        groups = [group for group in Group if not only or group in only]
        if not turn().is_first:
            groups = [group for group in groups if group not in checks.OF_ALL_REALMS]
        fleet = turn().shared.setdefault("fleet", Fleet(turn().all_settings))
        found = checks.run(orchestrator, settings, fleet, only=groups)
    if as_json:
        print_json([check.as_json() for check in found])
    else:
        rows = table("check", "", "found", "do")
        for check in found:
            status = Text(check.status, style=_COLOURS[check.status])
            rows.add_row(check.name, status, check.found, check.do)
        console.print(rows)
        if any(check.status != CheckStatus.OK for check in found):
            console.print("What each means, and what to do: docs/runbooks.md")
    if any(check.status == CheckStatus.FAIL for check in found):
        sys.exit(1)
