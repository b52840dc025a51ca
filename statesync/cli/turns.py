"""Owns whose turn it is: a command works in one realm after the other, or in the one world."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from statesync.settings import Settings

__all__ = ["Turn", "begun", "turn"]


@dataclass
class Turn:
    """A realm's turn in a command."""

    settings: Settings
    all_settings: tuple[Settings, ...]
    """Of each realm that the command works in."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What the turns of one command leave for those after them."""
    document: Any = None
    """What the command has to print as JSON."""

    @property
    def is_first(self) -> bool:
        """Whether it is the one that tells what is the same for all realms."""
        return self.settings.realm == self.all_settings[0].realm

    @property
    def is_one_of_many(self) -> bool:
        """Whether the command works in other realms, too."""
        return len(self.all_settings) > 1


_turns: list[Turn] = []


def turn() -> Turn:
    """Return whose turn it is. Raises SettingsError."""
    if _turns:
        return _turns[-1]
    settings = Settings.from_env()
    return Turn(settings, (settings,))


@contextlib.contextmanager
def begun(one: Turn) -> Iterator[None]:
    """Let a realm have its turn until the end of a block."""
    _turns.append(one)
    try:
        yield
    finally:
        _turns.pop()
