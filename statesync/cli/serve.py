"""Owns `statesync serve`: metrics, probes and the operator's page, until Ctrl-C."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec

import click

from statesync.settings import Settings

__all__ = ["is_installed", "serve"]


def is_installed() -> bool:
    """Return whether the extra ``statesync[web]`` is there."""
    return all(map(find_spec, ("jinja2", "prometheus_client", "starlette", "uvicorn")))


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
    if not is_installed():
        raise click.ClickException("it needs more packages: pip install 'statesync[web]'")
    from statesync.web import server

    settings = Settings.from_env()
    try:
        listening = server.listen(host, port)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}, port {port}: {error}") from None
    with contextlib.suppress(KeyboardInterrupt), listening:
        server.serve(settings, listening, say=click.echo)
