"""Owns `statesync dev`: everything running on this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import time
from pathlib import Path
from typing import NoReturn

import click

from statesync.cli.common import console
from statesync.embedded.servers import default_folder
from statesync.embedded.stack import Stack, stack
from statesync.embedded.supervisor import Supervised
from statesync.settings import Settings

__all__ = ["dev"]

_CHECK_SECONDS = 0.2


@click.command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where the data stays between runs.  [default: {default_folder()}]",
)
@click.option("--port", default=5555, show_default=True, help="Flower's port, on 127.0.0.1.")
@click.option(
    "--sync-seconds", default=5, show_default=True, help="How often the dirty list is swept."
)
def dev(folder: Path | None, port: int, sync_seconds: int) -> None:
    """Run PostgreSQL, Valkey, a worker, beat and Flower until Ctrl-C.

    Prints the environment that makes your game, and statesync's other commands, use them. The data
    stays in the folder for the next run. If one of the five ends by itself, it starts again and a
    line says so; if it keeps ending, the pause before each start grows to 30 seconds.

    \b
    Examples:
      statesync dev
      statesync dev --folder ./state --port 5600
    """
    with (
        contextlib.suppress(KeyboardInterrupt),
        console.status("starting …") as progress,
        stack(folder or default_folder(), sync_seconds=sync_seconds) as running,
    ):
        password = secrets.token_urlsafe(9)
        supervised = _start(running, port, password)
        progress.stop()
        _print_access(running, port, password)
        _supervise(supervised)
    console.print("\nStopped.")


def _start(running: Stack, port: int, password: str) -> list[Supervised]:
    servers = running.servers
    celery = [
        running.start_worker(),
        running.start_beat(),
        running.start_flower(port, password),
    ]
    return [
        Supervised(servers.postgres, servers.start_postgres, click.echo),
        Supervised(servers.valkey, servers.start_valkey, click.echo),
        *(Supervised(child, child.start, click.echo) for child in celery),
    ]


def _print_access(running: Stack, port: int, password: str) -> None:
    console.print("Running. In another terminal:\n", style="bold")
    for name, value in _environment(running.settings, port).items():
        click.echo(f"  export {name}={shlex.quote(value)}")
    click.echo(f"\n  Flower   http://127.0.0.1:{port}   user statesync, password {password}")
    click.echo(f"  logs     {running.servers.folder}/*.log\n\nCtrl-C stops everything.")


def _environment(settings: Settings, port: int) -> dict[str, str]:
    """Return what another terminal needs: each setting that is not the default, Flower's port."""
    defaults = Settings().to_env()
    changed = {name: text for name, text in settings.to_env().items() if text != defaults[name]}
    return changed | {"FLOWER_PORT": str(port)}


def _supervise(supervised: list[Supervised]) -> NoReturn:
    while True:
        time.sleep(_CHECK_SECONDS)
        for process in supervised:
            process.check()
