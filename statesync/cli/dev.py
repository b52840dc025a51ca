"""Owns `statesync dev`: everything running on this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import click

from statesync.cli.common import console
from statesync.cli.serve import is_installed
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
@click.option("--web-port", default=9180, show_default=True, help="That of `statesync serve`.")
@click.option(
    "--sync-seconds", default=5, show_default=True, help="How often the dirty list is swept."
)
def dev(folder: Path | None, port: int, web_port: int, sync_seconds: int) -> None:
    """Run PostgreSQL, Valkey, a worker, beat and Flower until Ctrl-C.

    With the extra `statesync[web]`, also `statesync serve`. Prints the environment that makes your
    game, and statesync's other commands, use them. The data stays in the folder for the next run.
    If one of these ends by itself, it starts again and a line says so; if it keeps ending, the
    pause before each start grows to 30 seconds.

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
        access = _Access(port, web_port if is_installed() else None)
        supervised = _start(running, access)
        progress.stop()
        _print_access(running, access)
        _supervise(supervised)
    console.print("\nStopped.")


@dataclass(frozen=True)
class _Access:
    """Where Flower and the operator's page are, and the password of ``statesync`` for both."""

    flower_port: int
    web_port: int | None
    """None if the page is not installed."""
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))

    @property
    def flower_url(self) -> str:
        """Where Flower is."""
        return f"http://127.0.0.1:{self.flower_port}"

    @property
    def web_url(self) -> str:
        """Where the page is; empty if it is not installed."""
        return f"http://127.0.0.1:{self.web_port}" if self.web_port else ""


def _start(running: Stack, access: _Access) -> list[Supervised]:
    servers, password = running.servers, access.password
    children = [
        running.start_worker(),
        running.start_beat(),
        running.start_flower(access.flower_port, password, web_url=access.web_url),
    ]
    if access.web_port:
        flower_url = access.flower_url
        children.append(running.start_serve(access.web_port, password, flower_url=flower_url))
    return [
        Supervised(servers.postgres, servers.start_postgres, click.echo),
        Supervised(servers.valkey, servers.start_valkey, click.echo),
        *(Supervised(child, child.start, click.echo) for child in children),
    ]


def _print_access(running: Stack, access: _Access) -> None:
    console.print("Running. In another terminal:\n", style="bold")
    for name, value in _environment(running.settings, access.flower_port).items():
        click.echo(f"  export {name}={shlex.quote(value)}")
    click.echo(f"\n  Flower   {access.flower_url}   user statesync, password {access.password}")
    if access.web_url:
        click.echo(f"  page     {access.web_url}   the same; metrics are at /metrics")
    else:
        click.echo("  page     none: pip install 'statesync[web]'")
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
