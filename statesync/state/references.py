"""Owns how a session is named: in Redis, in messages, among the members of a group, in a core."""

from __future__ import annotations

import re
from typing import NamedTuple
from uuid import UUID

from statesync.errors import InvalidInput
from statesync.state.fields import shown

__all__ = [
    "UUID_EXPECTED",
    "SessionRef",
    "is_session_uuid",
    "reference_field",
    "session_uuid",
]

UUID_EXPECTED = "must be a UUID such as 123e4567-e89b-12d3-a456-426614174000, or empty"
"""What a field of a core that points at a session must hold."""

_SUFFIX = "_session_id"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SessionRef(NamedTuple):
    """Names one session."""

    session_type: str
    """Such as ``combat``."""
    id: str
    """A UUID in the spelling that ``session_uuid`` returns."""

    @property
    def key(self) -> str:
        """Its key in Redis, without the prefix: ``combat:session:{uuid}``."""
        return f"{self.session_type}:session:{self.id}"

    @property
    def label(self) -> str:
        """How errors, logs and reports name it: the text of its key, ready for ``redis-cli``."""
        return self.key

    @property
    def member(self) -> str:
        """Its name among the members of a group: ``combat:{uuid}``."""
        return f"{self.session_type}:{self.id}"

    @classmethod
    def from_member(cls, member: str) -> SessionRef | None:
        """Return the session that a member names; None if it is a character or a tie."""
        session_type, colon, session_id = member.partition(":")
        return cls(session_type, session_id) if colon else None


def reference_field(session_type: str) -> str:
    """Return the field of a core that points at its session of a type."""
    return session_type + _SUFFIX


def is_session_uuid(text: str) -> bool:
    """Return whether ``text`` is a session's id in the spelling that keys use."""
    return _UUID.fullmatch(text) is not None


def session_uuid(session_id: object) -> str:
    """Return a session's id in the spelling that keys use. Raises InvalidInput."""
    try:
        return str(session_id if isinstance(session_id, UUID) else UUID(str(session_id)))
    except ValueError:
        raise InvalidInput(f"{shown(session_id)} is not a session id: it must be a UUID") from None
