"""Owns `statesync dev`: everything running on this machine until Ctrl-C."""

from __future__ import annotations

import contextlib
import secrets
import signal
from pathlib import Path

import click

from statesync.cli.common import console
from statesync.embedded.servers import default_folder
from statesync.embedded.stack import stack
from statesync.errors import EmbeddedServerError

__all__ = ["dev"]


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

    Prints the settings that make your game, and statesync's other commands, use them. The data
    stays in the folder for the next run.

    \b
    Examples:
      statesync dev
      statesync dev --folder ./state --port 5600
    """
    folder = folder or default_folder()
    with (
        contextlib.suppress(KeyboardInterrupt),
        console.status("starting …") as shown,
        stack(folder, sync_seconds=sync_seconds) as running,
    ):
        password = secrets.token_urlsafe(9)
        processes = [running.start_worker(), running.start_beat()]
        processes.append(running.start_flower(port, password))
        shown.stop()
        console.print("Running. In another terminal:\n", style="bold")
        for name in ("redis_url", "database_url", "broker_url", "result_url"):
            value = getattr(running.settings, name)
            click.echo(f"  export STATESYNC_{name.upper()}='{value}'")
        click.echo(f"\n  Flower   http://127.0.0.1:{port}   user statesync, password {password}")
        click.echo(f"  logs     {running.servers.folder}/*.log\n\nCtrl-C stops everything.")
        children = [*processes, running.servers.postgres, running.servers.valkey]
        while all(child.process and child.process.poll() is None for child in children):
            signal.sigtimedwait([], 1.0)
        ended = next(c for c in children if c.process and c.process.poll() is not None)
        raise EmbeddedServerError(f"{ended.name} ended by itself; see {ended.log}")
    console.print("\nStopped.")
