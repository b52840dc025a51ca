"""Owns which unsaved characters wait for a process that knows the type of their session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from statesync.errors import InvalidCharId, StatesyncError
from statesync.hot.store import HotStore
from statesync.state.characters import Character
from statesync.state.fields import parse_char_id
from statesync.state.references import SessionRef
from statesync.state.sessions import unknown_references

__all__ = ["count_unknown_types", "unknown_sessions_of"]

_LOOKED_AT = 100
"""How many of the oldest unsaved characters are looked at."""


def unknown_sessions_of(hot: HotStore, names: Iterable[str]) -> dict[str, list[SessionRef]]:
    """Return the live sessions of types that are not registered here, by who points at them.

    ``names`` are those of unsaved characters. A core that cannot be read is left out.
    """
    char_ids = []
    for name in names:
        with suppress(InvalidCharId):
            char_ids.append(parse_char_id(name))
    cores = hot.run_many([hot.commands.get(char_id) for char_id in char_ids])
    refs = [
        (str(core.char_id), ref)
        for core in cores
        if isinstance(core, Character)
        for ref in unknown_references(core.fields)
    ]
    peeks = hot.run_many([hot.commands.peek_session(*ref) for _, ref in refs])
    found: dict[str, list[SessionRef]] = {}
    for (name, ref), peek in zip(refs, peeks, strict=True):
        if isinstance(peek, StatesyncError) or peek >= 0:
            found.setdefault(name, []).append(ref)
    return found


def count_unknown_types(hot: HotStore) -> dict[str, int]:
    """Return the session types that the oldest unsaved characters wait for, with how many do."""
    oldest = hot.pending(limit=_LOOKED_AT).characters
    found = unknown_sessions_of(hot, [item.name for item in oldest])
    return dict(Counter(ref.session_type for refs in found.values() for ref in refs))
