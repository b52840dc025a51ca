"""Owns every error that statesync raises.

    StatesyncError
    ├── SettingsError             a setting is wrong; names the variable and what it accepts
    ├── InvalidInput              the caller passed something unusable (also a ValueError)
    │   ├── InvalidCharId         not an integer from 1 to 2**63 - 1
    │   └── InvalidField          a field of a character or a session cannot hold this value
    ├── InvalidSessionType        no such session type, or one that cannot be registered
    │   └── UnknownSessionType    a live session is of a type that this process has not registered
    ├── CharacterNotFound         the character is neither in Redis nor in PostgreSQL
    ├── CharacterNotLoaded        the character is not in Redis; restore it first
    ├── CharacterExists           the character is in Redis already
    ├── CharacterNotRestored      a session type cannot load a session of the character
    ├── CharacterNotMoved         the character cannot go to another realm now
    ├── CharacterMoved            the character has left to another realm; it is to be deleted there
    ├── CharacterNotSaved         the character has changes that are not in PostgreSQL yet
    ├── SessionNotFound           the session is not in Redis
    ├── SessionNotLoaded          no loaded character is in the session, so nothing would save it
    ├── SessionExists             a session has this id already
    ├── SessionClosed             the session is closed; nothing in it changes any more
    ├── InSession                 the character is in another session of that type
    ├── PreconditionFailed        a field is not as the change expects; nothing is changed
    ├── GroupTooLarge             too much is tied already; it must be saved first
    ├── NotDurable                the change is not known to be in PostgreSQL; the reason says why
    ├── CorruptState              what Redis holds cannot be saved; names the field
    ├── LeaseLost                 the claim passed to another worker
    ├── NotMigrated               the database's tables are not the ones this version needs
    ├── EmbeddedServerError       an embedded server could not be started
    └── ServerUnavailable         no character's fault: try again later
        ├── RedisUnavailable
        │   └── RedisForbidden      it answers, but refuses us: a login or a right is missing
        ├── DatabaseUnavailable
        │   ├── DatabaseForbidden   it answers, but refuses us: a login or a right is missing
        │   └── DatabaseWentBack    it is at an older state; first, what is live is saved again
        └── BrokerUnavailable

Errors that cross Celery carry their parts in ``args``, from which a JSON result backend builds them
again on the other side.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "BrokerUnavailable",
    "CharacterExists",
    "CharacterMoved",
    "CharacterNotFound",
    "CharacterNotLoaded",
    "CharacterNotMoved",
    "CharacterNotRestored",
    "CharacterNotSaved",
    "CorruptState",
    "DatabaseForbidden",
    "DatabaseUnavailable",
    "DatabaseWentBack",
    "EmbeddedServerError",
    "GroupTooLarge",
    "InSession",
    "InvalidCharId",
    "InvalidField",
    "InvalidInput",
    "InvalidSessionType",
    "LeaseLost",
    "NotDurable",
    "NotMigrated",
    "PreconditionFailed",
    "RedisForbidden",
    "RedisUnavailable",
    "ServerUnavailable",
    "SessionClosed",
    "SessionExists",
    "SessionNotFound",
    "SessionNotLoaded",
    "SettingsError",
    "StatesyncError",
    "UnknownSessionType",
]


class StatesyncError(Exception):
    """Anything that statesync raises on purpose."""


class SettingsError(StatesyncError):
    """A setting is wrong."""


class InvalidInput(StatesyncError, ValueError):
    """The caller passed something that cannot be used."""


class InvalidCharId(InvalidInput):
    """A character id is not an integer from 1 to 2**63 - 1."""


class InvalidField(InvalidInput):
    """A field of a character or a session cannot hold this value; ``args`` are (field, reason)."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"field {self.field!r}: {self.reason}"


class InvalidSessionType(StatesyncError):
    """There is no such session type, or it cannot be registered."""


class UnknownSessionType(InvalidSessionType):
    """A live session is of a type that is not registered in this process; another one knows it.

    ``args`` are (session,), such as ``raid:session:{uuid}``. Nothing is done.
    """

    def __init__(self, session: str) -> None:
        super().__init__(session)
        self.session = session
        self.session_type = session.partition(":")[0]

    def __str__(self) -> str:
        return (
            f"it is in {self.session}, and the session type {self.session_type!r} is not "
            "registered in this process"
        )


class _OfCharacter(StatesyncError):
    """An error about one character; ``args`` are (char_id,)."""

    _message = ""

    def __init__(self, char_id: int) -> None:
        super().__init__(char_id)
        self.char_id = char_id

    def __str__(self) -> str:
        return self._message.format(char_id=self.char_id)


class CharacterNotLoaded(StatesyncError):
    """The character is not in Redis; ``args`` are (char_id,), and in a realm its name."""

    def __init__(self, char_id: int, realm: str = "") -> None:
        super().__init__(char_id, *filter(None, (realm,)))
        self.char_id = char_id
        self.realm = realm

    def __str__(self) -> str:
        if self.realm:
            return (
                f"character {self.char_id} is not loaded in realm {self.realm}; restore it first "
                "(it may be in another realm, which shares nothing with this one)"
            )
        return f"character {self.char_id} is not loaded in Redis; restore it first"


class CharacterExists(_OfCharacter):
    """The character is in Redis already, so it cannot be created."""

    _message = "character {char_id} is in Redis already; update it instead"


class CharacterNotFound(_OfCharacter):
    """The character is neither in Redis nor in PostgreSQL."""

    _message = "character {char_id} is neither in Redis nor in PostgreSQL"


class CharacterNotRestored(StatesyncError):
    """A session type cannot load a session of the character; ``args`` are (char_id, reason)."""

    def __init__(self, char_id: int, reason: str) -> None:
        super().__init__(char_id, reason)
        self.char_id = char_id
        self.reason = reason

    def __str__(self) -> str:
        return f"character {self.char_id} is not restored: {self.reason}"


class CharacterNotMoved(StatesyncError):
    """The character cannot go to another realm now; ``args`` are (char_id, reason)."""

    def __init__(self, char_id: int, reason: str) -> None:
        super().__init__(char_id, reason)
        self.char_id = char_id
        self.reason = reason

    def __str__(self) -> str:
        return f"character {self.char_id} is not moved: {self.reason}"


class CharacterMoved(StatesyncError):
    """The character has left to another realm; ``args`` are (char_id, target)."""

    def __init__(self, char_id: int, target: str) -> None:
        super().__init__(char_id, target)
        self.char_id = char_id
        self.target = target

    def __str__(self) -> str:
        return f"character {self.char_id} has left to realm {self.target!r}: delete it there"


class CharacterNotSaved(StatesyncError):
    """The character cannot be saved, or keeps changing, so it is not evicted.

    ``args`` are (char_id, reason); the reason is empty if it only keeps changing.
    """

    def __init__(self, char_id: int, reason: str = "") -> None:
        super().__init__(char_id, reason)
        self.char_id = char_id
        self.reason = reason

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return (
            f"character {self.char_id} has changes that are not in PostgreSQL yet; it stays in "
            f"Redis{reason}"
        )


class InSession(_OfCharacter):
    """The character is in another session of that type already."""

    _message = "character {char_id} is in another session of that type; leave or close it first"


class _OfSession(StatesyncError):
    """An error about one session; ``args`` are (session,), such as ``combat:session:{uuid}``."""

    _message = ""

    def __init__(self, session: str) -> None:
        super().__init__(session)
        self.session = session

    def __str__(self) -> str:
        return self._message.format(session=self.session)


class SessionNotFound(_OfSession):
    """The session is not in Redis."""

    _message = "{session} is not in Redis; restore one of its participants first"


class SessionNotLoaded(_OfSession):
    """No loaded character is in the session, so nothing would save a change to it."""

    _message = (
        "no loaded character is in {session}, so nothing would save a change to it; restore one of "
        "its participants first"
    )


class SessionExists(_OfSession):
    """A session has this id already."""

    _message = "{session} is in Redis already; open one under another id"


class SessionClosed(_OfSession):
    """The session is closed; nothing in it changes any more."""

    _message = "{session} is closed"


class CorruptState(StatesyncError):
    """What Redis holds of a character cannot be saved; ``args`` are (char_id, field, reason).

    ``char_id`` is 0 if no character is known.
    """

    def __init__(self, char_id: int, field: str, reason: str) -> None:
        super().__init__(char_id, field, reason)
        self.char_id = char_id
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        owner = f"character {self.char_id}, " if self.char_id else ""
        return f"{owner}field {self.field!r}: {self.reason}"


class PreconditionFailed(StatesyncError):
    """A field is not as a change expects it, so nothing is changed.

    ``args`` are (owner, field, expected, found). ``owner`` is such as ``character 7`` or
    ``combat:session:{uuid}``. ``expected`` and ``found`` are texts; None means absent.
    """

    def __init__(self, owner: str, field: str, expected: str | None, found: str | None) -> None:
        super().__init__(owner, field, expected, found)
        self.owner = owner
        self.field = field
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        expected, found = ("nothing" if t is None else _shown(t) for t in self.args[2:])
        return f"{self.owner}, field {self.field!r}: expected {expected}, found {found}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:99] + "…")


class GroupTooLarge(StatesyncError):
    """A consistency group would outgrow its limit; ``args`` are (char_ids,).

    Nothing is changed. Save these characters and try again; a GameStore does so by itself.
    """

    def __init__(self, char_ids: Iterable[int]) -> None:
        self.char_ids = tuple(char_ids)
        super().__init__(self.char_ids)

    def __str__(self) -> str:
        return (
            f"characters {', '.join(map(str, self.char_ids))} are tied to too many others that are "
            "not saved yet; nothing is changed: back one of them up and try again, as a GameStore "
            "does by itself"
        )


class NotDurable(StatesyncError):
    """A change is not known to be in PostgreSQL; ``args`` are (char_ids, reason).

    It is in Redis and marked dirty, and a sweep saves it as soon as it can; unless the reason says
    that a server has forgotten it, or that it was lost in a conflict.
    """

    def __init__(self, char_ids: Iterable[int], reason: str) -> None:
        self.char_ids = tuple(char_ids)
        self.reason = reason
        super().__init__(self.char_ids, reason)

    def __str__(self) -> str:
        char_ids = ", ".join(map(str, self.char_ids)) or "none"
        return f"the change is not known to be in PostgreSQL (characters {char_ids}): {self.reason}"


class LeaseLost(_OfCharacter):
    """The claim on the character passed to another worker."""

    _message = "the claim on character {char_id} passed to another worker"


class NotMigrated(StatesyncError):
    """The database's tables are not the ones that this version needs."""


class EmbeddedServerError(StatesyncError):
    """An embedded server could not be started."""


class ServerUnavailable(StatesyncError):
    """A server cannot be reached or cannot work now. Nothing is lost; try again later."""


class RedisUnavailable(ServerUnavailable):
    """Redis cannot be reached or refuses to work."""


class RedisForbidden(RedisUnavailable):
    """Redis answers, but refuses the login or lacks a right; it says which."""


class DatabaseUnavailable(ServerUnavailable):
    """PostgreSQL cannot be reached or refuses to work."""


class DatabaseForbidden(DatabaseUnavailable):
    """PostgreSQL answers, but refuses the login or lacks a right; it says which."""


class DatabaseWentBack(DatabaseUnavailable):
    """PostgreSQL is at an older state than before, such as a restored backup.

    Until every live character is saved again nothing is restored from it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(
            message
            or "PostgreSQL went back to an older state: the live characters are saved again before "
            "any is restored; the next sweep does it, or `statesync recover` at once"
        )


class BrokerUnavailable(ServerUnavailable):
    """The Celery broker cannot be reached."""
