"""Owns what a group is made of: the names of its members, and what scripts find of them.

Characters are tied by what they share: a session, or a change that changed them together (a tie).
A script declares every key that it touches, but who belongs together stands in Redis. So a script
is tried with the members that are known, and where it finds more it does nothing and says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from statesync.errors import InvalidInput, InvalidSessionType
from statesync.hot.command import Raw, corrupt, session_of
from statesync.hot.keys import Keys
from statesync.state.fields import TIE_FIELD, parse_char_id
from statesync.state.references import session_uuid
from statesync.state.session_types import find_type
from statesync.state.sessions import read_participants

__all__ = ["MAX_TIED", "Members", "found_members", "session_name"]

MAX_TIED = 64
"""How many characters and sessions one tie may hold: what is tied is one transaction."""


def session_name(session_type: str, session_id: UUID | str) -> str:
    """Return the name of a session among the members of a group."""
    return f"{session_type}:{session_id}"


class Members:
    """The members of a group, in the order in which scripts take them.

    Their names: the id of a character, ``combat:{uuid}`` of a session, the uuid of a tie.
    """

    def __init__(self, names: Iterable[str], first: int = 0) -> None:
        self.names = frozenset(names) | ({str(first)} if first else set())
        if len(self.names) == 1 and first:  # most are alone
            self.characters, self.sessions, self.ties = [first], [], []
            return
        characters = sorted(int(name) for name in self.names if name.isdigit())
        self.characters = sorted(characters, key=lambda char_id: char_id != first)
        self.sessions = [
            (session_type, session_id)
            for session_type, colon, session_id in sorted(
                name.partition(":") for name in self.names
            )
            if colon
        ]
        self.ties = sorted(n for n in self.names if ":" not in n and not n.isdigit())

    def keys(self, keys: Keys) -> list[str]:
        """Return the keys of the cores, the sessions, their logs and the ties."""
        return [
            *map(keys.core, self.characters),
            *(keys.session(*session) for session in self.sessions),
            *(keys.session_log(*session) for session in self.sessions),
            *map(keys.tie, self.ties),
        ]

    def counts(self) -> list[int]:
        """Return how many characters, sessions and ties there are."""
        return [len(self.characters), len(self.sessions), len(self.ties)]

    def listed(self) -> list[str]:
        """Return the names in the order of the keys."""
        return [
            *map(str, self.characters),
            *(session_name(*session) for session in self.sessions),
            *self.ties,
        ]


def found_members(char_id: int, keys: Sequence[str], found: Raw) -> frozenset[str]:
    """Return the names of the members that a script has found.

    ``found`` is number of the key, field, value, … as ``shared/members.lua`` notes them. Raises
    CorruptState, of ``char_id`` where it is in nobody's core, for what names no member.
    """
    names: set[str] = set()
    for number, raw_field, raw in zip(found[::3], found[1::3], found[2::3], strict=True):
        key, field = keys[number - 1], raw_field.decode()
        if field == "participants":
            names.update(map(str, read_participants(session_of(key), char_id, raw)))
            continue
        text = raw.decode(errors="backslashreplace")
        session_type = field.removesuffix("_session_id")
        name = text if session_type == field else session_name(session_type, text)
        if not _is_member(name):
            reason = (
                "must name a tie or one of its members"
                if session_type == field
                else "must be a UUID such as 123e4567-e89b-12d3-a456-426614174000, or empty"
            )
            raise corrupt(char_id, key, field or TIE_FIELD, reason)
        names.add(name)
    return frozenset(names)


def _is_member(name: str) -> bool:
    session_type, colon, session_id = name.partition(":")
    try:
        if name.isdigit():
            return parse_char_id(name) > 0
        if colon:
            find_type(session_type)
        text = session_id if colon else name
        return session_uuid(text) == text
    except (InvalidInput, InvalidSessionType):
        return False
