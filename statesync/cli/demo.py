"""Owns `statesync demo`: the main job from start to finish, on real servers, everything checked."""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import click
from celery import Celery
from rich.text import Text

from statesync.cli.common import as_json, console, print_json, progress_console, table
from statesync.cli.demo_steps import Demo, Step
from statesync.embedded.stack import stack
from statesync.errors import BrokerUnavailable
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.broker import problem_of
from statesync.settings import Settings
from statesync.worker.config import celery_settings

__all__ = ["demo"]

_SETTINGS: dict[str, Any] = {"sync_seconds": 1, "lease_seconds": 4, "batch_size": 50}
"""Short times make a short demo; small batches give the worker a middle to be killed in."""
_CONNECT_SECONDS = 5
_RATED_FROM = 5
"""Fewer things than this have no rate worth a column."""


@click.command()
@click.option(
    "--broker",
    metavar="URL",
    help="Send the messages by this server, in queues that are deleted at the end.",
)
@as_json
def demo(broker: str | None, as_json: bool) -> None:
    """See all of it work, in under a minute, on servers of its own that are removed at the end.

    Creates 2,000 characters in PostgreSQL, logs them in, opens fights, inventories and quests,
    plays, lets the sync save them; wipes Redis and restores all; kills a worker in the middle of a
    backup. Compares every field of every character and session each time. Exit status 0 only if
    every comparison held.

    \b
    Examples:
      statesync demo
      statesync demo --json | jq .
      statesync demo --broker amqp://user:password@127.0.0.1/vhost
    """
    starting = progress_console.status("starting PostgreSQL and Valkey …")
    with starting as status, _borrowed(broker) as changes:
        steps = _run(status.update, changes)
    held = all(step.held is not False for step in steps)
    if as_json:
        print_json({"steps": [asdict(step) for step in steps], "held": held})
    else:
        _print(steps, held=held)
    if not held:
        sys.exit(1)


@contextlib.contextmanager
def _borrowed(broker_url: str | None) -> Iterator[dict[str, Any]]:
    """Give the settings that use a broker in queues of our own, and delete these at the end."""
    if not broker_url:
        yield {}
        return
    changes = {"broker_url": broker_url, "queue_prefix": f"demo-{secrets.token_hex(4)}."}
    settings = Settings(**changes)  # type: ignore[arg-type]
    app = Celery("demo", set_as_current=False)
    app.conf.update(celery_settings(settings))
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_CONNECT_SECONDS)
    except Exception as error:  # each transport of a broker has its own
        reason = problem_of(error, "the broker", settings.broker_url)
        raise BrokerUnavailable(reason) from None
    try:
        yield changes
    finally:
        _delete_queues(app)


def _delete_queues(app: Celery) -> None:
    with app.connection_for_write() as connection:
        queues = [queue(connection.default_channel) for queue in app.amqp.queues.values()]
        for queue in queues:
            queue.declare()  # Redis forgets a queue only if it knows where it is bound
            queue.delete()
        for queue in queues:
            queue.exchange.delete()


def _run(show: Callable[[str], object], changes: dict[str, Any]) -> list[Step]:
    """Run all steps on a new stack; ``show`` is told what is under way."""
    steps: list[Step] = []

    def add(step: Step) -> None:
        steps.append(step)
        _print_progress(step)

    started = time.monotonic()
    with stack(**_SETTINGS, **changes) as running:
        worker = running.start_worker("worker-1", wait=False)
        running.start_beat()
        running.wait_worker(worker)
        seconds = time.monotonic() - started
        add(Step("start PostgreSQL, Valkey, worker and beat", 4, seconds))
        orchestrator = GameStateOrchestrator.from_settings(running.settings)
        try:
            for title, stage in Demo(running, orchestrator, worker).stages():
                show(f"{title} …")
                for step in stage():
                    add(step)
        finally:
            orchestrator.close()
        show("stopping …")
    return steps


def _print_progress(step: Step) -> None:
    mark, style = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "")}[step.held]
    line = f" {step.step}: {step.count:,} {step.note}"
    progress_console.print(Text.assemble((mark, style), line))


def _print(steps: list[Step], *, held: bool) -> None:
    rows = table("what happened", "number", "seconds", "per second", "held", title="")
    for column in rows.columns[1:4]:
        column.justify = "right"
    for step in steps:
        is_rated = step.count >= _RATED_FROM and step.seconds
        rate = f"{step.count / step.seconds:,.0f}" if is_rated else ""
        seconds = f"{step.seconds:.2f}" if step.seconds else ""
        verdict, style = {True: ("yes", "green"), False: ("NO", "red"), None: ("", "")}[step.held]
        note = f" ({step.note})" if step.note else ""
        rows.add_row(
            step.step, f"{step.count:,}", seconds, rate, Text.assemble((verdict, style), note)
        )
    console.print(rows)
    console.print(
        "\nEvery comparison held: nothing was lost." if held else "\nA comparison did not hold.",
        style="bold green" if held else "bold red",
    )
