"""Owns the registry: which session types there are.

A session type is a class that says its ``session_type``, the states that lead to it, and what
``sessions.base`` asks for. It is registered by the entry point group ``statesync.sessions``, as our
own three are, or by ``register``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeVar

from statesync.errors import InvalidSessionType
from statesync.state.fields import shown
from statesync.state.references import reference_field

__all__ = [
    "ENTRY_POINTS",
    "SessionType",
    "check_registry",
    "clear_cache",
    "find_type",
    "is_type_name",
    "names",
    "reference_fields",
    "register",
    "session_types",
    "types_by_state",
]

ENTRY_POINTS = "statesync.sessions"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")


class SessionType(Protocol):
    """What is known of a session type without PostgreSQL; ``SessionOrchestrator`` explains it."""

    session_type: ClassVar[str]
    states: ClassVar[Sequence[str]]
    json_fields: ClassVar[Sequence[str]]
    required_fields: ClassVar[Sequence[str]]
    has_log: ClassVar[bool]

    @classmethod
    def check(cls, fields: Mapping[str, Any]) -> None:
        """Refuse fields that cannot be saved. Raises InvalidField."""

    @classmethod
    def check_together(cls, changes: Sequence[Mapping[str, Any]]) -> None:
        """Refuse new fields of several sessions, if not all can be saved. Raises InvalidField."""


AnyClass = TypeVar("AnyClass", bound=type)
_decorated: list[type] = []


def register(cls: AnyClass) -> AnyClass:
    """Add a session type; a decorator for a subclass of ``SessionOrchestrator``.

    Every process that works with such sessions, game and workers, must import the module
    (``celery -A statesync worker --include mygame.sessions``). Raises InvalidSessionType if another
    type has the same ``session_type`` or one of its states, or if something is missing.
    """
    check_registry([*_load_entry_points(), *_decorated, cls])
    _decorated.append(cls)
    clear_cache()
    return cls


def clear_cache() -> None:
    """Have the registered types looked up again at their next use."""
    session_types.cache_clear()
    reference_fields.cache_clear()


@cache
def session_types() -> Mapping[str, type[SessionType]]:
    """Return every registered class, by its session type. Raises InvalidSessionType."""
    return MappingProxyType(check_registry([*_load_entry_points(), *_decorated]))


def names() -> list[str]:
    """Return all registered session types, always in the same order."""
    return sorted(session_types())


@cache
def reference_fields() -> Mapping[str, str]:
    """Return the fields of a core that point at its sessions: field to session type.

    Only registered types are in it. Raises InvalidSessionType.
    """
    return MappingProxyType(
        {reference_field(session_type): session_type for session_type in names()}
    )


def find_type(session_type: str) -> type[SessionType]:
    """Return the class of one session type. Raises InvalidSessionType if there is none."""
    if type(session_type) is not str:  # the text of an enum's member is not its value
        raise InvalidSessionType(
            f"a session type must be a str, such as 'combat', not {shown(session_type)} "
            f"({type(session_type).__name__})"
        )
    found = session_types().get(session_type)
    if found is None:
        raise InvalidSessionType(
            f"there is no session type {session_type!r}; there are {', '.join(names())}. "
            f"A type of your own must be registered in every process"
        )
    return found


def is_type_name(text: str) -> bool:
    """Return whether ``text`` can be the name of a session type, registered here or not."""
    return _NAME.fullmatch(text) is not None


def types_by_state() -> dict[str, str]:
    """Return the session type that each state leads to."""
    return {state: cls.session_type for cls in session_types().values() for state in cls.states}


def check_registry(classes: Iterable[type]) -> dict[str, type[SessionType]]:
    """Return ``classes`` by session type. Raises InvalidSessionType if one is not valid, or two
    have the same session type or state."""
    by_type: dict[str, type[SessionType]] = {}
    by_state: dict[str, str] = {}
    for checked in classes:
        cls = _checked(checked)
        if cls.session_type in by_type:
            raise InvalidSessionType(
                f"the session type {cls.session_type!r} is registered twice: by "
                f"{_path(by_type[cls.session_type])} and by {_path(cls)}; as an entry point and by "
                "the decorator, say: keep one of the two"
            )
        by_type[cls.session_type] = cls
        for state in cls.states:
            if state in by_state:
                raise InvalidSessionType(
                    f"the state {state!r} is claimed by two session types: "
                    f"{by_state[state]!r} and {cls.session_type!r}"
                )
            by_state[state] = cls.session_type
    return by_type


def _checked(cls: type) -> type[SessionType]:
    has_both = all(callable(getattr(cls, method, None)) for method in ("save", "load"))
    if not isinstance(cls, type) or not has_both:
        raise InvalidSessionType(
            f"{_path(cls)} is no session type: it must be a subclass of SessionOrchestrator "
            f"with save() and load()"
        )
    if missing := getattr(cls, "__abstractmethods__", None):
        raise InvalidSessionType(f"{_path(cls)} lacks {', '.join(sorted(missing))}()")
    if getattr(cls, "has_log", False) and "saved_log" not in _own_names(cls):
        raise InvalidSessionType(
            f"{_path(cls)} keeps a log, so it must say by saved_log() how much of it"
        )
    _check_session_type(cls)
    states = getattr(cls, "states", ())
    if isinstance(states, str) or not all(isinstance(s, str) and s for s in states):
        raise InvalidSessionType(
            f"{_path(cls)}: states must be a sequence of non-empty strings, not {states!r}"
        )
    return cls


def _check_session_type(cls: type) -> None:
    session_type = getattr(cls, "session_type", None)
    if session_type is None and isinstance(name := getattr(cls, "name", None), str):
        raise InvalidSessionType(
            f"{_path(cls)} has no session_type; it used to be called name: "
            f"write session_type = {name!r}"
        )
    if type(session_type) is not str or not is_type_name(session_type):
        raise InvalidSessionType(
            f"{_path(cls)}: session_type must be a str of lower-case letters, digits and _, a "
            f"letter first, not {session_type!r}"
        )


def _path(cls: object) -> str:
    return f"{getattr(cls, '__module__', '?')}.{getattr(cls, '__qualname__', repr(cls))}"


def _own_names(cls: type) -> set[str]:
    """Return what a class and its ancestors define, except the base of all session types."""
    ancestors = [one for one in cls.__mro__ if one.__name__ != "SessionOrchestrator"]
    return {name for one in ancestors for name in vars(one)}


def _load_entry_points() -> list[type]:
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
            "no session type is installed, not even our own: this installation is older than "
            f"the entry points {ENTRY_POINTS}; run `pip install` once more"
        )
    return list(dict.fromkeys(loaded))
