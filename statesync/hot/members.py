"""Owns the members of a consistency group: their names, their keys, and what scripts find of them.

Characters belong together if they share a session, or if one change changed them together (a tie).
A script declares every key that it touches, but the members of a group stand in Redis. So a script
is tried with the known members; if it finds more, it does nothing and says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from statesync.errors import InvalidCharId, UnknownSessionType
from statesync.hot.command import Raw, corrupt, session_of
from statesync.hot.keys import Keys
from statesync.state.fields import TIE_FIELD, parse_char_id
from statesync.state.references import UUID_EXPECTED, SessionRef, is_session_uuid
from statesync.state.session_types import is_type_name, reference_fields, session_types
from statesync.state.sessions import read_participants

__all__ = ["MAX_TIED", "Members", "with_found"]

MAX_TIED = 64
"""Upper bound on the members of one tie: a group is saved in one transaction."""


class Members:
    """The members of a group, in the order in which scripts take their keys.

    A character's name is its id, a session's is ``combat:{uuid}``, a tie's is its uuid.
    """

    def __init__(self, names: Iterable[str], first: int = 0) -> None:
        self.names = frozenset(names) | ({str(first)} if first else set())
        others = {name for name in self.names if not name.isdigit()}
        self.characters = sorted(map(int, self.names - others))
        if first:
            self.characters.remove(first)
            self.characters.insert(0, first)
        self.sessions: list[SessionRef] = []
        self.ties: list[str] = []
        for name in sorted(others):
            if ref := SessionRef.from_member(name):
                self.sessions.append(ref)
            else:
                self.ties.append(name)

    @property
    def is_alone(self) -> bool:
        """Whether it is one character, in no session and no tie."""
        return len(self.names) == 1 and bool(self.characters)

    def keys(self, keys: Keys) -> list[str]:
        """Return the keys of the cores, the sessions, their logs and the ties."""
        return [
            *map(keys.core, self.characters),
            *(keys.session(*ref) for ref in self.sessions),
            *(keys.session_log(*ref) for ref in self.sessions),
            *map(keys.tie, self.ties),
        ]

    def listed(self) -> tuple[list[str], list[str], list[str]]:
        """Return the names of characters, sessions and ties, in the order of the keys."""
        return [*map(str, self.characters)], [ref.member for ref in self.sessions], self.ties


def with_found(
    names: frozenset[str], char_id: int, script_keys: Sequence[str], found: Raw
) -> frozenset[str]:
    """Return the names of the known members, with those that a script has found.

    ``found`` is number of the key, field, value, … as ``shared/members.lua`` notes them. Raises
    CorruptState if a value names no member; of ``char_id`` if it is in no core. Raises
    UnknownSessionType if it names a session of a type that is not registered here.
    """
    return names.union(
        *(
            _named_members(char_id, script_keys[int(number) - 1], raw_field.decode(), raw)
            for number, raw_field, raw in zip(found[::3], found[1::3], found[2::3], strict=True)
        )
    )


def _named_members(char_id: int, key: str, field: str, raw: bytes) -> set[str]:
    """Return the members that one field names."""
    if field == "participants":
        return set(map(str, read_participants(session_of(key), char_id, raw)))
    text = raw.decode(errors="backslashreplace")
    if session_type := reference_fields().get(field):
        if not is_session_uuid(text):
            raise corrupt(char_id, key, field, UUID_EXPECTED)
        return {SessionRef(session_type, text).member}
    if not _is_member(text):
        raise corrupt(char_id, key, field or TIE_FIELD, "must name a tie or one of its members")
    ref = SessionRef.from_member(text)
    if ref and ref.session_type not in session_types():
        raise UnknownSessionType(ref.label)
    return {text}


def _is_member(name: str) -> bool:
    if name.isdigit():
        with suppress(InvalidCharId):
            return parse_char_id(name) > 0
        return False
    ref = SessionRef.from_member(name)
    if ref:
        return is_type_name(ref.session_type) and is_session_uuid(ref.id)
    return is_session_uuid(name)
