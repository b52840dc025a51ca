"""Owns what game code sends to Redis about sessions: one function per operation. No I/O.

The participants stand in Redis, so an operation is tried with the known ones, and sent again if the
script finds others (``members``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from statesync.errors import (
    CorruptState,
    InvalidField,
    InvalidInput,
    SessionNotFound,
)
from statesync.hot.command import Command, Raw, load_script, not_loaded, pack, pairs
from statesync.hot.commands.together import Action, Together, change
from statesync.hot.fields import gather_fields, list_writes, nonce_if
from statesync.hot.keys import Keys
from statesync.hot.members import MAX_TIED, Members, with_found
from statesync.state.characters import (
    Character,
    FieldValue,
    decode_character,
    encode_character,
)
from statesync.state.fields import check_char_id, json_value
from statesync.state.receipts import Receipt
from statesync.state.references import SessionRef, reference_field, session_uuid
from statesync.state.session_types import find_type, names
from statesync.state.sessions import Session, decode_session, encode_session, read_references

__all__ = [
    "FullState",
    "change_participants",
    "close_session",
    "get_full_state",
    "get_session",
    "join_session",
    "leave_session",
    "open_session",
    "read_log",
    "update_session",
]


_open_session = load_script("open_session")


def open_session(
    keys: Keys,
    session_type: str,
    char_ids: Iterable[int],
    fields: Mapping[str, Any],
    core: Mapping[str, FieldValue] | None = None,
    /,
    *,
    session_id: UUID | str | None = None,
    durable: bool = False,
    **more: FieldValue,
) -> Command[UUID]:
    """Open a session of loaded characters and mark them dirty, in one atomic step.

    ``fields`` are the session's own; ``core`` and keywords are written to each participant as
    ``update`` does, such as ``state="combat"``. Returns the session's id, a new one unless given.
    Opened twice with the same it is opened once; SessionExists if the id is that of another one, or
    of a closed one. Raises CharacterNotLoaded, InSession, InvalidSessionType, InvalidField,
    InvalidInput, InvalidCharId or CorruptState; then nothing is written.
    """
    participants = list(dict.fromkeys(check_char_id(char_id) for char_id in char_ids))
    if not participants:
        raise InvalidInput("a session needs at least one participant")
    ref = SessionRef(session_type, session_uuid(session_id or uuid4()))
    nonce = nonce_if(durable=durable, receipt=False)
    args = {
        "reference_field": reference_field(session_type),
        "session_id": ref.id,
        "char_ids": [*map(str, participants)],
        "session_fields": list_writes(_first_fields(session_type, fields, participants)),
        "core_fields": list_writes(encode_character(gather_fields(core, more))),
        **({"nonce": nonce} if nonce else {}),
    }
    cores = map(keys.core, participants)
    script_keys = (keys.session(*ref), keys.dirty, keys.since, keys.nonces, *cores)
    saves = participants if durable else None
    # Not repeatable: a participant may have left since, or the session be closed and gone.
    command = Command(_open_session, script_keys, (pack(args),), int, participants[0], saves, nonce)
    return command.then(lambda _: UUID(ref.id))


def _first_fields(
    session_type: str, fields: Mapping[str, Any], participants: Sequence[int]
) -> dict[str, str]:
    """Return the fields with which a session begins, encoded."""
    encoded = encode_session(session_type, {**fields, "participants": participants})
    for name in find_type(session_type).required_fields:
        if name not in fields:
            reason = f"a session of the type {session_type!r} cannot be opened without it"
            raise InvalidField(name, reason)
    return encoded


def update_session(
    keys: Keys,
    session_type: str,
    session_id: UUID | str,
    fields: Mapping[str, Any] | None = None,
    /,
    *,
    log: Sequence[Any] = (),
    durable: bool = False,
    receipt: bool = False,
) -> Command[Receipt]:
    """Write fields of a session, append ``log`` entries, and mark all participants dirty.

    One atomic step. Returns the session's version. Raises SessionNotFound, SessionNotLoaded if no
    loaded character is in it, SessionClosed, InvalidSessionType, InvalidField, InvalidInput or
    CorruptState; then nothing is written. With ``durable`` it returns when PostgreSQL has it, or
    raises NotDurable.
    """
    todo = Together().update_session(session_type, session_id, fields, log=log).changes
    nonce = nonce_if(durable=durable, receipt=receipt)
    return change(keys, todo, durable=durable, nonce=nonce).then(_only)


def close_session(
    keys: Keys,
    session_type: str,
    session_id: UUID | str,
    fields: Mapping[str, Any] | None = None,
    /,
    *,
    durable: bool = False,
    receipt: bool = False,
) -> Command[Receipt]:
    """Close a session, with a last change if given: from now on nothing in it changes.

    The next backup of a participant saves it for good, clears the references to it and deletes it
    from Redis, in that order, so that no crash loses its end. Returns its version. Raises what
    ``update_session`` does; a session that is closed already stays as it is.
    """
    todo = Together().close_session(session_type, session_id, fields).changes
    for one in todo.values():
        one.action = Action.CLOSE_IF_OPEN
    nonce = nonce_if(durable=durable, receipt=receipt)
    return change(keys, todo, durable=durable, nonce=nonce).then(_only)


def _only(receipts: Mapping[str, Receipt]) -> Receipt:
    (receipt,) = receipts.values()
    return receipt


_change_participants = load_script("change_participants")


def change_participants(
    keys: Keys,
    ref: SessionRef,
    char_id: int,
    /,
    *,
    leaves: bool,
    durable: bool = False,
    nonce: str | None = None,
    known: frozenset[str] = frozenset(),
    token: str = "",
) -> Command[Receipt]:
    """Take a character into a session, or out of it. Returns the session's version."""
    token = token or str(uuid4())
    members = Members({ref.member, token, *known}, first=char_id)
    script_keys = [keys.dirty, keys.since, keys.nonces, *members.keys(keys)]
    again = partial(change_participants, keys, ref, char_id, leaves=leaves, nonce=nonce)

    def parse(reply: Raw) -> Receipt | Command[Receipt]:
        is_changed, result = reply
        if is_changed:
            return Receipt(int(result), None, nonce)
        found = with_found(members.names, char_id, script_keys, result)
        return again(known=found, durable=durable, token=token)

    args = {
        "members": members.listed(),
        "max_tied": MAX_TIED,
        "new_tie": token,
        "session": ref.member,
        "session_id": ref.id,
        "reference_field": reference_field(ref.session_type),
        "char_id": str(char_id),
        "leaves": leaves,
        **({"nonce": nonce} if nonce else {}),
    }
    saves = members.characters if durable else None
    # Not repeatable: the character may have left, or joined anew, since.
    return Command(_change_participants, script_keys, (pack(args),), parse, char_id, saves, nonce)


def join_session(
    keys: Keys,
    session_type: str,
    session_id: UUID | str,
    char_id: int,
    /,
    *,
    durable: bool = False,
    receipt: bool = False,
) -> Command[Receipt]:
    """Take a loaded character into a session. Returns the session's version.

    Raises CharacterNotLoaded, InSession and what ``update_session`` does.
    """
    ref = _checked_ref(session_type, session_id)
    check_char_id(char_id)
    nonce = nonce_if(durable=durable, receipt=receipt)
    return change_participants(keys, ref, char_id, leaves=False, durable=durable, nonce=nonce)


def leave_session(
    keys: Keys,
    session_type: str,
    session_id: UUID | str,
    char_id: int,
    /,
    *,
    durable: bool = False,
    receipt: bool = False,
) -> Command[Receipt]:
    """Take a character out of a session; the last one to leave closes it.

    A character that leaves is tied to the session until both are saved. Returns the session's
    version. Raises GroupTooLarge, and what ``update_session`` does except SessionClosed.
    """
    ref = _checked_ref(session_type, session_id)
    check_char_id(char_id)
    nonce = nonce_if(durable=durable, receipt=receipt)
    return change_participants(keys, ref, char_id, leaves=True, durable=durable, nonce=nonce)


def _checked_ref(session_type: str, session_id: UUID | str) -> SessionRef:
    """Return the session's name. Raises InvalidSessionType or InvalidInput."""
    find_type(session_type)
    return SessionRef(session_type, session_uuid(session_id))


_get_session = load_script("get_session")


def get_session(keys: Keys, session_type: str, session_id: UUID | str, /) -> Command[Session]:
    """Read a session, without the entries of its log.

    Raises SessionNotFound, InvalidSessionType, InvalidInput or InvalidField.
    """
    ref = _checked_ref(session_type, session_id)

    def parse(reply: Raw) -> Session:
        log_length, *fields = reply
        if not fields:
            raise SessionNotFound(ref.label)
        return decode_session(*ref, pairs(fields), log_length)

    script_keys = (keys.session(*ref), keys.session_log(*ref))
    return Command(_get_session, script_keys, (), parse, repeatable=True)


_read_log = load_script("read_log")


def read_log(
    keys: Keys, session_type: str, session_id: UUID | str, /, *, start: int = 0, stop: int = -1
) -> Command[list[Any]]:
    """Read entries ``start`` to ``stop`` of a session's log; both count, -1 is the last.

    Raises InvalidField if an entry is no JSON.
    """
    text = session_uuid(session_id)

    def parse(reply: Raw) -> list[Any]:
        return [json_value(f"log[{start + i}]", entry) for i, entry in enumerate(reply)]

    script_keys = (keys.session_log(session_type, text),)
    return Command(_read_log, script_keys, (start, stop), parse, repeatable=True)


_get_full_state = load_script("get_full_state")


class FullState(NamedTuple):
    """A loaded character and its sessions, by type, as they were at one instant."""

    character: Character
    sessions: dict[str, Session]
    """Without those that the core points at but that are gone."""


def get_full_state(keys: Keys, char_id: int, /) -> Command[FullState]:
    """Read a loaded character and its sessions, at one instant.

    Raises CharacterNotLoaded, InvalidCharId or CorruptState.
    """
    return _try_full_state(keys, check_char_id(char_id), {})


def _try_full_state(keys: Keys, char_id: int, references: Mapping[str, str]) -> Command[FullState]:
    """Read a character that is in the sessions of ``references``."""
    refs = [SessionRef(*reference) for reference in references.items()]

    def parse(reply: Raw) -> FullState | Command[FullState]:
        is_read, core, *parts = reply
        if not is_read:
            return _try_full_state(keys, char_id, read_references(char_id, core))
        if not core:
            raise not_loaded(char_id, keys.core(char_id))
        try:
            sessions = {
                ref.session_type: decode_session(*ref, pairs(fields), log_length)
                for ref, (log_length, *fields) in zip(refs, parts, strict=True)
                if fields
            }
        except InvalidField as error:
            raise CorruptState(char_id, error.field, error.reason) from None
        return FullState(decode_character(char_id, pairs(core)), sessions)

    script_keys = (
        keys.core(char_id),
        *(keys.session(*ref) for ref in refs),
        *(keys.session_log(*ref) for ref in refs),
    )
    args = {
        "references": [(reference_field(t), references.get(t, "")) for t in names()],
        "sessions": len(refs),
    }
    return Command(_get_full_state, script_keys, (pack(args),), parse, char_id, repeatable=True)
