"""Owns what game code sends to Redis where sessions take part: one function per operation. No I/O.

Who takes part stands in Redis: what is tried with too few keys is sent again (``members``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from statesync.errors import (
    CharacterNotLoaded,
    CorruptState,
    InvalidField,
    InvalidInput,
    SessionNotFound,
)
from statesync.hot.command import Command, Raw, flat, load_script, pairs
from statesync.hot.commands.together import Together, change
from statesync.hot.keys import Keys
from statesync.hot.members import MAX_TIED, Members, found_members, session_name
from statesync.state.characters import Character, decode_character, encode_character
from statesync.state.fields import check_char_id, json_value
from statesync.state.references import reference_field, session_uuid
from statesync.state.session_types import find_type, names
from statesync.state.sessions import (
    Session,
    decode_session,
    encode_session,
    read_references,
)

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
    /,
    *,
    session_id: UUID | str | None = None,
    durable: bool = False,
    **core: Any,
) -> Command[UUID]:
    """Open a session of loaded characters and mark them dirty, in one atomic step.

    ``fields`` are the session's own; ``core`` is written to each participant as ``update`` does,
    such as ``state="combat"``. Returns the session's id, a new one unless given. Raises
    CharacterNotLoaded, InSession, SessionExists, InvalidSessionType, InvalidField, InvalidCharId or
    CorruptState; then nothing is written.
    """
    members = [check_char_id(char_id) for char_id in char_ids]
    if not members:
        raise InvalidInput("a session needs at least one participant")
    chosen = UUID(session_uuid(session_id or uuid4()))
    text = str(chosen)
    encoded = encode_session(session_type, {**fields, "participants": list(dict.fromkeys(members))})
    for name in find_type(session_type).required_fields:
        if name not in fields:
            raise InvalidField(
                name, f"a session of the type {session_type!r} cannot be opened without it"
            )
    members = list(dict.fromkeys(members))
    args: list[str | int] = [
        reference_field(session_type),
        text,
        len(members),
        len(encoded),
        *members,
    ]
    args += [*flat(encoded), *flat(encode_character(core))]
    on = (keys.session(session_type, text), keys.dirty, keys.since, *map(keys.core, members))

    def receipts(_: Raw) -> dict[int, int]:
        return dict.fromkeys(members, 0)

    save = receipts if durable else None
    return Command(_open_session, on, args, lambda _: chosen, members[0], save)


def update_session(
    keys: Keys,
    session_type: str,
    session_id: UUID | str,
    fields: Mapping[str, Any] | None = None,
    /,
    *,
    log: Sequence[Any] = (),
    durable: bool = False,
) -> Command[int]:
    """Write fields of a session, append ``log`` entries, and mark all participants dirty.

    One atomic step. Returns the session's version. Raises SessionNotFound, SessionClosed,
    InvalidSessionType, InvalidField, InvalidInput or CorruptState; then nothing is written. With
    ``durable`` it returns when PostgreSQL has it, or raises NotDurable.
    """
    todo = Together().update_session(session_type, session_id, fields, log=log).changes
    return change(keys, todo, durable=durable).then(_only)


def close_session(
    keys: Keys,
    session_type: str,
    session_id: UUID | str,
    fields: Mapping[str, Any] | None = None,
    /,
    *,
    durable: bool = False,
) -> Command[int]:
    """Close a session, with a last change if given: from now on nothing in it changes.

    The next backup of a participant saves it for good, clears the references to it and deletes it
    from Redis, in that order, so that no crash loses its end. Returns its version. Raises what
    ``update_session`` does; a session that is closed already stays as it is.
    """
    todo = Together().close_session(session_type, session_id, fields).changes
    return change(keys, {n: replace(c, what="end") for n, c in todo.items()}, durable=durable).then(
        _only
    )


def _only(versions: Mapping[str, int]) -> int:
    (version,) = versions.values()
    return version


_change_participants = load_script("change_participants")


def change_participants(
    keys: Keys,
    session_type: str,
    session_id: UUID | str,
    *,
    joiner: int = 0,
    leaver: int = 0,
    durable: bool = False,
    known: frozenset[str] = frozenset(),
) -> Command[int]:
    """Take a character into a session, or out of it. Returns the session's version."""
    name = session_name(session_type, session_uuid(session_id))
    fresh = str(uuid4())
    members = Members({name, fresh, *known}, first=joiner or leaver)
    on = [keys.dirty, keys.since, *members.keys(keys)]

    def parse(reply: Raw) -> int | Command[int]:
        if reply[0]:
            return int(reply[1])
        found = found_members(joiner or leaver, on, reply[1])
        return change_participants(
            keys,
            session_type,
            session_id,
            joiner=joiner,
            leaver=leaver,
            durable=durable,
            known=known | found,
        )

    def receipts(_: Raw) -> dict[int, int]:
        return dict.fromkeys(members.characters, 0)

    args: list[str | int] = [
        *members.counts(),
        MAX_TIED,
        fresh,
        name,
        reference_field(session_type),
    ]
    args += [joiner or "", leaver or "", *members.listed()]
    return Command(
        _change_participants, on, args, parse, joiner or leaver, receipts if durable else None
    )


def join_session(
    keys: Keys, session_type: str, session_id: UUID | str, char_id: int, /, *, durable: bool = False
) -> Command[int]:
    """Take a loaded character into a session. Returns the session's version.

    Raises CharacterNotLoaded, InSession and what ``update_session`` does.
    """
    find_type(session_type)
    joiner = check_char_id(char_id)
    return change_participants(keys, session_type, session_id, joiner=joiner, durable=durable)


def leave_session(
    keys: Keys, session_type: str, session_id: UUID | str, char_id: int, /, *, durable: bool = False
) -> Command[int]:
    """Take a character out of a session; the last one to leave closes it.

    Who leaves is tied to the session until both are saved. Returns the session's version. Raises
    GroupTooLarge, and what ``update_session`` does but for SessionClosed.
    """
    find_type(session_type)
    leaver = check_char_id(char_id)
    return change_participants(keys, session_type, session_id, leaver=leaver, durable=durable)


_get_session = load_script("get_session")


def get_session(keys: Keys, session_type: str, session_id: UUID | str, /) -> Command[Session]:
    """Read a session, without the entries of its log.

    Raises SessionNotFound, InvalidSessionType, InvalidInput or InvalidField.
    """
    text = session_uuid(session_id)
    find_type(session_type)

    def parse(reply: Raw) -> Session:
        if len(reply) == 1:
            raise SessionNotFound(f"{session_type}:session:{text}")
        return decode_session(session_type, text, pairs(reply[1:]), reply[0])

    return Command(
        _get_session,
        (keys.session(session_type, text), keys.session_log(session_type, text)),
        (),
        parse,
    )


_read_log = load_script("read_log")


def read_log(
    keys: Keys, session_type: str, session_id: UUID | str, /, *, start: int = 0, stop: int = -1
) -> Command[list[Any]]:
    """Read entries ``start`` to ``stop`` of a session's log; both count, -1 is the last.

    Raises InvalidField where an entry is no JSON.
    """
    text = session_uuid(session_id)

    def parse(reply: Raw) -> list[Any]:
        return [json_value(f"log[{start + i}]", entry) for i, entry in enumerate(reply)]

    return Command(_read_log, (keys.session_log(session_type, text),), (start, stop), parse)


_get_full_state = load_script("get_full_state")


class FullState(NamedTuple):
    """A loaded character and its sessions, by type, as they were at one instant."""

    character: Character
    sessions: dict[str, Session]
    """Without those that the core points at but that are gone."""


def get_full_state(
    keys: Keys, char_id: int, /, *, references: Mapping[str, str] | None = None
) -> Command[FullState]:
    """Read a loaded character and its sessions, at one instant.

    Raises CharacterNotLoaded, InvalidCharId or CorruptState.
    """
    known = references or {}
    type_names = names()
    sessions = list(known.items())

    def parse(reply: Raw) -> FullState | Command[FullState]:
        if not reply[0]:
            return get_full_state(keys, char_id, references=read_references(char_id, reply[1]))
        if not reply[1]:
            raise CharacterNotLoaded(char_id)
        try:
            read = {
                session_type: decode_session(session_type, session_id, pairs(raw[1:]), raw[0])
                for (session_type, session_id), raw in zip(sessions, reply[2:], strict=True)
                if len(raw) > 1
            }
        except InvalidField as error:
            raise CorruptState(char_id, error.field, error.reason) from None
        return FullState(decode_character(char_id, pairs(reply[1])), read)

    on = (
        keys.core(check_char_id(char_id)),
        *(keys.session(*reference) for reference in sessions),
        *(keys.session_log(*reference) for reference in sessions),
    )
    args: list[str | int] = [len(sessions), len(type_names), *map(reference_field, type_names)]
    return Command(
        _get_full_state, on, [*args, *(known.get(k, "") for k in type_names)], parse, char_id
    )
