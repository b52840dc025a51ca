"""The operations as methods: real names, parameters and documentation, on every store."""

from __future__ import annotations

import inspect
import pydoc
from typing import Any

import pytest

from statesync.hot.command import Command
from statesync.hot.commands import characters
from statesync.hot.keys import Keys
from statesync.hot.store import AsyncHotStore, Commands, GameCommands, HotStore

GAME = {
    *("create", "get", "update", "mark_dirty", "update_together", "get_full_state"),
    *("open_session", "update_session", "join_session", "leave_session", "close_session"),
    *("get_session", "read_log"),
}


def public(cls: type[Any]) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("cls", [HotStore, AsyncHotStore])
def test_signature_is_that_of_the_function_without_its_keys(cls: type[Any]) -> None:
    store = cls("redis://localhost:1")
    built = str(inspect.signature(characters.update)).replace("keys: 'Keys', ", "")
    shown = str(inspect.signature(store.update))
    assert shown == built.replace("Command[Receipt]", "Receipt")
    assert "durable: 'bool' = False, receipt: 'bool' = False" in shown
    assert store.update.__name__ == "update"
    assert store.update.__doc__ == cls.update.__doc__ == characters.update.__doc__
    assert next(iter(inspect.signature(cls.update).parameters)) == "self"


@pytest.mark.parametrize("cls", [HotStore, AsyncHotStore, Commands, GameCommands])
def test_help_lists_the_operations_as_methods(cls: type[Any]) -> None:
    shown = pydoc.plain(pydoc.render_doc(cls))
    assert "update(self, char_id: 'int', fields: " in shown
    assert "Write fields of a loaded character and mark it dirty" in shown


def test_games_build_what_games_do() -> None:
    assert public(GameCommands) == GAME | {"run"}
    assert public(Commands) > public(GameCommands)
    command = GameCommands(Keys("p:")).update(1, gold=1)
    assert isinstance(command, Command)
    assert command.keys[0] == "p:ac:1"
    assert not hasattr(GameCommands(Keys()), "forget")
