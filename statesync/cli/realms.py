"""Owns `--realm`: which realms a command works in. Without it, that is each in turn.

What a command prints as JSON is then one object, by realm.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from statesync.cli.common import complain, write_json
from statesync.cli.turns import Turn, begun
from statesync.errors import InvalidInput, SettingsError, StatesyncError
from statesync.settings import Settings

__all__ = ["take_realm"]


def take_realm(command: click.Command) -> click.Command:
    """Give a command, or those of a group, the option ``--realm``."""
    if isinstance(command, click.Group):
        for name in command.commands:
            command.commands[name] = take_realm(command.commands[name])
    elif command.callback and "realm" not in {param.name for param in command.params}:
        command.params.append(click.Option(["--realm"], help="In this realm alone."))
        command.callback = _in_turns(command.callback)
    return command


def _in_turns(callback: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(callback)
    def run(*args: Any, realm: str | None, **options: Any) -> None:
        settings = Settings.from_env()
        each = (settings.for_realm(realm),) if realm else settings.each_realm()
        turns = [Turn(one, each) for one in each]
        status = 0
        for one in turns:
            one.shared = turns[0].shared
            with begun(one):
                status = max(status, _take(one, functools.partial(callback, *args, **options)))
        if turns[0].is_one_of_many and options.get("as_json"):
            write_json({one.settings.realm: one.document for one in turns})
        if status:
            sys.exit(status)

    return run


def _take(one: Turn, call: Callable[[], object]) -> int:
    """Run a command in one realm. In one of many, a server's trouble is not the others'."""
    if not one.is_one_of_many:
        call()
        return 0
    try:
        call()
    except (SettingsError, InvalidInput):
        raise
    except StatesyncError as error:
        complain(f"realm {one.settings.realm}: {error}")
        one.document = {"error": str(error)}
        return 1
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0
