"""Owns the command line: the same calls as everywhere else, for people and scripts."""

from __future__ import annotations

import logging
import signal
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import NoReturn

import click

from statesync import logs
from statesync.errors import InvalidInput, SettingsError, StatesyncError

__all__ = ["main"]

_COMMANDS = {
    "demo": "demo",
    "dev": "dev",
    "serve": "serve",
    "migrate": "operate",
    "doctor": "doctor",
    "status": "show",
    "inspect": "show",
    "pending": "pending",
    "restore": "operate",
    "drain": "operate",
    "scrub": "operate",
    "recover": "recover",
    "delete": "operate",
    "where": "move",
    "move": "move",
    "quarantine": "quarantine",
    "conflicts": "conflicts",
}
"""Each command and its module, which is imported when it is asked for."""
_ON_THEIR_OWN = ("demo", "dev", "serve", "where", "move")
"""These work on servers of their own, without realms, or in several realms at once."""


class _Lazy(click.Group):
    def list_commands(self, _: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"statesync.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        if cmd_name in _ON_THEIR_OWN:
            return command
        from statesync.cli.realms import take_realm

        return take_realm(command)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="statesync")
def _cli() -> None:
    """Keep game state hot in Redis and durable in PostgreSQL.

    Settings come from the environment (STATESYNC_REDIS_URL, STATESYNC_DATABASE_URL, …).
    Exit status: 0 it worked, 1 it failed, 2 wrong use. `statesync COMMAND --help` has examples.

    \b
    Examples:
      statesync demo                  see all of it work, on servers of its own
      statesync dev                   servers, worker, beat and Flower until Ctrl-C
      statesync status --watch
      statesync inspect 42
    """


def main() -> NoReturn:
    """Run the command line; an error ends it with one line, never with a traceback."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a letter that the terminal lacks
    logs.configure("text", logging.WARNING, text=logging.Formatter())
    # A shell that starts us in the background makes us ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (SettingsError, InvalidInput) as error:
        _complain(error)
        sys.exit(2)
    except StatesyncError as error:
        _complain(error)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("statesync: interrupted", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if not _is_of_a_server(error):
            raise
        _complain(error)
        sys.exit(1)
    sys.exit(0)


def _complain(error: Exception) -> None:
    """Print an error as one line; the end of a server's log, which some carry, has more."""
    from statesync.state.fields import printable

    text = "\n".join(map(printable, str(error).split("\n")))
    click.echo(f"statesync: {text}", err=True)


def _is_of_a_server(error: Exception) -> bool:
    from kombu.exceptions import OperationalError
    from sqlalchemy.exc import SQLAlchemyError

    from statesync.durable.database import Rejected

    return isinstance(error, (Rejected, SQLAlchemyError, OperationalError))


def _terminate(signal_number: int, _: object) -> NoReturn:
    """End on SIGTERM as on Ctrl-C, so that all that we started is stopped."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt(signal_number)
