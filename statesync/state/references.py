"""Owns how a session is named: in Redis, in messages, among the members of a group, in a core."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from statesync.errors import InvalidInput

__all__ = [
    "UUID_EXPECTED",
    "SessionRef",
    "reference_field",
    "session_type_of",
    "session_uuid",
]

UUID_EXPECTED = "must be a UUID such as 123e4567-e89b-12d3-a456-426614174000, or empty"
"""What a field of a core that points at a session must hold."""

_SUFFIX = "_session_id"


class SessionRef(NamedTuple):
    """Names one session. ``id`` is a UUID in its one spelling, as ``session_uuid`` returns it."""

    session_type: str
    """Such as ``combat``."""
    id: str

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
        """Return the session that a member's name means; None if it names a character or a tie."""
        session_type, colon, session_id = member.partition(":")
        return cls(session_type, session_id) if colon else None


def reference_field(session_type: str) -> str:
    """Return the field of a core that points at its session of a type."""
    return session_type + _SUFFIX


def session_type_of(field: str) -> str | None:
    """Return the type of the session that a field of a core points at; None if it is another."""
    return field.removesuffix(_SUFFIX) if field.endswith(_SUFFIX) else None


def session_uuid(session_id: object) -> str:
    """Return the one spelling of a session's id that keys bear. Raises InvalidInput."""
    try:
        return str(session_id if isinstance(session_id, UUID) else UUID(str(session_id)))
    except ValueError:
        raise InvalidInput(f"{session_id!r:.60} is not a session id: it must be a UUID") from None
