"""Owns `statesync serve`: metrics, probes and the operator's page, until Ctrl-C."""

from __future__ import annotations

import contextlib

import click

from statesync.settings import Settings

__all__ = ["serve"]


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=9180, show_default=True, type=click.IntRange(1, 65535))
def serve(host: str, port: int) -> None:
    """Serve metrics, probes and the operator's page until Ctrl-C.

    It needs the extra `statesync[web]`, and serves all realms. /metrics, /live and /ready need no
    password.

    \b
    Examples:
      statesync serve
      statesync serve --host 0.0.0.0 --port 9180
    """
    try:
        from statesync.web import server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("statesync"):
            raise
        raise click.ClickException(f"install statesync[web]: {error}") from None
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(Settings.from_env(), host=host, port=port, say=click.echo)
