"""Owns the commands that change the state: migrate, restore, drain, scrub, delete."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict

import click
from rich.progress import Progress

from statesync.cli.common import (
    CharId,
    Seconds,
    as_json,
    connected,
    console,
    counts_of,
    counts_of_backups,
    print_json,
    progress_bar,
    say,
)
from statesync.durable import migrate as migrations
from statesync.hot.commands.operators import Status
from statesync.lifecycle.orchestrator import GameStateOrchestrator, RestoreReport
from statesync.lifecycle.scrub import scrub_pages
from statesync.lifecycle.sweep import drain as drain_all
from statesync.lifecycle.unknown_types import count_unknown_types
from statesync.observe.status import tell_unknown_types
from statesync.state.outcomes import DeletionOutcome, RestoreOutcome, SessionOutcome

__all__ = ["delete", "drain", "migrate", "restore", "scrub"]

_LISTED = 20
"""More restored characters than this are counted, not listed."""


@click.command()
@as_json
def migrate(as_json: bool) -> None:
    """Bring the database's tables up to date. Safe to run twice.

    \b
    Example:
      STATESYNC_DATABASE_URL=postgresql://game@db/game statesync migrate
    """
    with connected() as (orchestrator, settings):
        before = migrations.revision(orchestrator.engine)
        after = migrations.upgrade(orchestrator.engine, realm=settings.realm)
    if as_json:
        print_json({"before": before, "after": after})
    elif before == after:
        console.print(f"The tables are up to date (revision {after}).")
    else:
        console.print(f"Migrated from {before or 'nothing'} to revision {after}.")


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=CharId())
@click.option(
    "--all-active",
    is_flag=True,
    help="All that are in an open session or were saved lately: after a loss of the cache.",
)
@click.option(
    "--hours",
    default=24.0,
    show_default=True,
    type=Seconds(),
    help="With --all-active: saved within so many hours.",
)
@as_json
def restore(ids: tuple[int, ...], all_active: bool, hours: float, as_json: bool) -> None:
    """Load characters and their sessions from PostgreSQL into Redis; live ones stay as they are.

    Works without workers and queues, so logins do not wait behind it. Exit status 1 if a character
    is not found, or cannot be loaded.

    \b
    Examples:
      statesync restore 42 43
      statesync restore --all-active
    """
    if bool(ids) == all_active:
        raise click.UsageError("give the IDs of characters, or --all-active")
    with connected(to_one=not all_active) as (orchestrator, _), progress_bar() as bar:
        if all_active:
            _restore_active(orchestrator, hours, bar, as_json=as_json)
            return
        task = bar.add_task("restoring", total=len(set(ids)))
        reports = orchestrator.restore_many(
            ids, progress=lambda restored: bar.update(task, completed=restored)
        )
    if as_json:
        print_json([asdict(report) for report in reports])
    else:
        _print_restored(reports)
    if any(r.outcome in (RestoreOutcome.NOT_FOUND, RestoreOutcome.FAILED) for r in reports):
        sys.exit(1)


def _print_restored(reports: list[RestoreReport]) -> None:
    """Print a line for each character, or counts if they are many."""
    if len(reports) > _LISTED:
        console.print(counts_of(Counter(report.outcome for report in reports)))
        return
    for report in reports:
        words = [str(report.outcome)]
        if report.version is not None:
            words[0] += f" at version {report.version}"
        words += [f"{session_type} {outcome}" for session_type, outcome in report.sessions.items()]
        if report.fallback_from:
            words.append(f"no longer in state {report.fallback_from!r}")
        error = f" ({report.error})" if report.error else ""
        say(f"{report.char_id}: {', '.join(words)}{error}")


def _restore_active(
    orchestrator: GameStateOrchestrator, hours: float, bar: Progress, *, as_json: bool
) -> None:
    """Restore all active characters, page by page, and print the counts."""
    task = bar.add_task("restoring", total=orchestrator.count_active(hours))
    outcomes: Counter[RestoreOutcome] = Counter()
    sessions: Counter[SessionOutcome] = Counter()
    failed: list[RestoreReport] = []
    fallbacks = 0
    for page in orchestrator.active(hours):
        reports = orchestrator.restore_many(page)
        outcomes.update(report.outcome for report in reports)
        sessions.update(outcome for r in reports for outcome in r.sessions.values())
        fallbacks += sum(report.fallback_from is not None for report in reports)
        failed += [report for report in reports if report.outcome == RestoreOutcome.FAILED]
        bar.advance(task, len(page))
    if as_json:
        named = [{"char_id": report.char_id, "error": report.error} for report in failed]
        counts = {"outcomes": outcomes, "sessions": sessions, "fallbacks": fallbacks}
        print_json(counts | {"failed": named})
    else:
        console.print(f"Characters: {counts_of(outcomes)}.")
        console.print(f"Their sessions: {counts_of(sessions)}.")
        if fallbacks:
            console.print(f"{fallbacks} went to the fallback state: their session has ended.")
        for report in failed[:_LISTED]:
            say(f"{report.char_id}: failed ({report.error})")
    if failed:
        sys.exit(1)


@click.command()
@click.option("--timeout", default=60.0, show_default=True, type=Seconds(), help="Seconds.")
@as_json
def drain(timeout: float, as_json: bool) -> None:
    """Save everything that is dirty now, without the broker, and say what is left.

    Run it before a deploy or a shutdown. It takes over claims that stand still for five seconds.
    Exit status 1 if something is left at the end.

    \b
    Example:
      statesync drain --timeout 30
    """
    with connected() as (orchestrator, settings), progress_bar() as bar:
        task = bar.add_task("saving", total=None)
        most = 0

        def show(status: Status) -> None:
            nonlocal most
            left = status.dirty + status.claimed
            most = max(most, left)
            bar.update(task, total=most, completed=most - left)

        report = drain_all(orchestrator, settings, timeout, show)
        unknown = {} if report.complete else count_unknown_types(orchestrator.hot)
    if as_json:
        print_json(asdict(report) | {"unknown_types": unknown, "done": report.complete})
    else:
        console.print(f"Drained: {counts_of_backups(report.outcomes)}.")
        if not report.complete:
            console.print(
                f"Left: {report.dirty} dirty, {report.claimed} claimed by workers. They are safe "
                "in Redis; run it again, or with a longer --timeout."
            )
        if unknown:
            say(tell_unknown_types(unknown))
        if report.quarantined:
            console.print(f"In quarantine: {report.quarantined}; see `statesync quarantine list`.")
    if not report.complete:
        sys.exit(1)


@click.command()
@as_json
def scrub(as_json: bool) -> None:
    """Find what is not as its row and has no mark, and mark it, so that the next sweep saves it.

    A bare writer leaves such changes if it raises the version and then omits its SADD, or dies
    before it; so does a server that went back in time. Walks over all of Redis, gently; beat does
    the same every STATESYNC_SCRUB_SECONDS.

    \b
    Example:
      statesync scrub
    """
    counts: Counter[str] = Counter(characters=0, sessions=0, marked=0)
    with connected() as (orchestrator, _), progress_bar() as bar:
        task = bar.add_task("looking", total=None)
        for page in scrub_pages(orchestrator):
            counts.update(page.counts())
            bar.update(task, total=page.keys, advance=page.peeked)
    if as_json:
        print_json(counts)
    else:
        console.print(
            f"Looked at {counts['characters']} characters and {counts['sessions']} sessions: "
            f"{counts['marked']} were not as their rows, without a mark, and are dirty now."
        )


@click.command()
@click.argument("char_id", metavar="ID", type=CharId())
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def delete(char_id: int, yes: bool, as_json: bool) -> None:
    """Delete a character from Redis and PostgreSQL. No backup brings it back, and no restore.

    Sessions that it shares go on without it. Its row stays, with deleted_at set, for later
    questions. Safe to run twice; run it again if it was cut off. Exit status 1 if there is no such
    character.

    \b
    Examples:
      statesync delete 42
      statesync delete 42 --yes --json
    """
    with connected(to_one=True) as (orchestrator, _):
        if not yes:
            click.confirm(f"Delete character {char_id} for good?", abort=True, err=True)
        report = orchestrator.delete(char_id)
    if as_json:
        print_json(asdict(report))
    else:
        left = f"; it has left {', '.join(report.sessions)}" if report.sessions else ""
        say(f"{char_id}: {report.outcome}{left}")
    if report.outcome == DeletionOutcome.NOT_FOUND:
        sys.exit(1)
