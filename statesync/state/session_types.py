"""Owns the registry: which session types there are, by name.

A type is a class with a name, the states that lead to it and what ``sessions.base`` asks for. It
gets here by the entry point group ``statesync.sessions``, as our own three do, or by ``register``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar

from statesync.errors import InvalidSessionType

__all__ = [
    "ENTRY_POINTS",
    "SessionType",
    "check_registry",
    "find_type",
    "names",
    "register",
    "session_types",
    "types_by_state",
]

ENTRY_POINTS = "statesync.sessions"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")


class SessionType(Protocol):
    """What is known of a session type without PostgreSQL."""

    name: str
    states: Sequence[str]
    json_fields: Sequence[str]
    required_fields: Sequence[str]
    has_log: bool

    @classmethod
    def check(cls, fields: Mapping[str, Any]) -> None: ...


Kind = TypeVar("Kind", bound=type)
_decorated: list[Any] = []
_known: dict[str, Any] = {}


def register(cls: Kind) -> Kind:
    """Add a session type; a decorator for a subclass of ``SessionOrchestrator``.

    The module must be imported by every process that works with such sessions, game and workers
    (``celery -A statesync worker --include mygame.sessions``). Raises InvalidSessionType where the
    name or one of the states is taken, or something is missing.
    """
    check_registry([*_entries(), *_decorated, cls])
    _decorated.append(cls)
    _known.clear()
    return cls


def session_types() -> Mapping[str, Any]:
    """Return every registered session type, by name. Raises InvalidSessionType."""
    if not _known:
        _known.update(check_registry([*_entries(), *_decorated]))
    return _known


def names() -> list[str]:
    """Return the names of all session types, always in the same order."""
    return sorted(session_types())


def find_type(name: str) -> SessionType:
    """Return one session type. Raises InvalidSessionType where there is none of that name."""
    found = session_types().get(name)
    if found is None:
        raise InvalidSessionType(
            f"there is no session type {name!r}; there are {', '.join(names())}. "
            f"A type of your own must be registered in every process"
        )
    session_type: SessionType = found
    return session_type


def types_by_state() -> dict[str, str]:
    """Return the name of the session type that each state leads to."""
    return {state: name for name, cls in session_types().items() for state in cls.states}


def check_registry(classes: Iterable[Any]) -> dict[str, Any]:
    """Return ``classes`` by name. Raises InvalidSessionType where they cannot stand together."""
    by_name: dict[str, Any] = {}
    by_state: dict[str, str] = {}
    for cls in classes:
        _check(cls)
        shown = f"{cls.__module__}.{cls.__qualname__}"
        if cls.name in by_name:
            first = by_name[cls.name]
            raise InvalidSessionType(
                f"the session type {cls.name!r} is registered twice: by "
                f"{first.__module__}.{first.__qualname__} and by {shown}"
            )
        by_name[cls.name] = cls
        for state in cls.states:
            if state in by_state:
                raise InvalidSessionType(
                    f"the state {state!r} is claimed by two session types: "
                    f"{by_state[state]!r} and {cls.name!r}"
                )
            by_state[state] = cls.name
    return by_name


def _check(cls: Any) -> None:
    shown = f"{getattr(cls, '__module__', '?')}.{getattr(cls, '__qualname__', repr(cls))}"
    for method in ("save", "load"):
        if not isinstance(cls, type) or not callable(getattr(cls, method, None)):
            raise InvalidSessionType(
                f"{shown} is no session type: it must be a subclass of SessionOrchestrator "
                f"with {method}()"
            )
    if missing := getattr(cls, "__abstractmethods__", None):
        raise InvalidSessionType(f"{shown} lacks {', '.join(sorted(missing))}()")
    if getattr(cls, "has_log", False) and "saved_log" not in _methods(cls):
        raise InvalidSessionType(
            f"{shown} keeps a log, so it must say by saved_log() how much of it"
        )
    name, states = getattr(cls, "name", None), getattr(cls, "states", ())
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidSessionType(
            f"{shown}: the name {name!r} must be lower-case letters, digits and _, a letter first"
        )
    if isinstance(states, str) or not all(isinstance(s, str) and s for s in states):
        raise InvalidSessionType(
            f"{shown}: states must be a sequence of non-empty strings, not {states!r}"
        )


def _methods(cls: type) -> set[str]:
    """Return what a class and its ancestors define, but for the base of all session types."""
    ancestors = [one for one in cls.__mro__ if one.__name__ != "SessionOrchestrator"]
    return {name for one in ancestors for name in vars(one)}


def _entries() -> list[Any]:
    loaded = []
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda e: e.value):
        try:
            loaded.append(entry.load())
        except Exception as error:
            raise InvalidSessionType(
                f"the entry point {entry.name} = {entry.value} in the group {ENTRY_POINTS} "
                f"cannot be loaded: {type(error).__name__}: {error}"
            ) from error
    if not loaded:
        raise InvalidSessionType(
            "no session type is installed, not even our own: an older installation is without "
            f"the entry points {ENTRY_POINTS}; run `pip install` once more"
        )
    return list(dict.fromkeys(loaded))
