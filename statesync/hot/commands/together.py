"""Owns the change of several characters and sessions in one step: the builder and its Command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self
from uuid import UUID, uuid4

from statesync.errors import InvalidField, InvalidInput, PreconditionFailed
from statesync.hot.command import Command, Raw, flat, load_script
from statesync.hot.keys import Keys
from statesync.hot.members import MAX_TIED, Members, found_members, session_name
from statesync.state.characters import JSON_FIELDS, encode_character
from statesync.state.fields import check_char_id, load_json
from statesync.state.references import session_uuid
from statesync.state.session_types import find_type
from statesync.state.sessions import encode_log, encode_session, json_fields

__all__ = ["Change", "Together", "change", "update_together"]

_IDEMPOTENCY_MS = 120_000
"""How long a change is remembered, should it be sent again: longer than any client retries."""


@dataclass(slots=True)
class Change:
    """What is expected of one character or session, and what is to change in it."""

    session_type: str
    """The session's type; empty for a character."""
    what: str = "guard"
    """``guard`` changes nothing, ``write``, ``close``; ``end`` closes it if it is open."""
    preconditions: dict[str, str | None] = field(default_factory=dict)
    """The text that each field must hold; None where it must be absent."""
    fields: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


class Together:
    """A change to several characters and sessions: all of it happens, or nothing.

    Every method returns the builder, so that a trade reads as one sentence::

        sword = Together().expect(1, gold=100).update(1, gold=0).update(2, gold=150)
    """

    def __init__(self) -> None:
        self.changes: dict[str, Change] = {}

    def update(self, char_id: int, /, **fields: Any) -> Self:
        """Write fields of a loaded character, as ``HotStore.update`` does."""
        change = self._character(char_id)
        change.what = "write"
        change.fields |= encode_character(fields)
        return self

    def expect(self, char_id: int, /, *, version: int | None = None, **fields: Any) -> Self:
        """Let all of it happen only if the character holds these values; None means none.

        Prefer fields to ``version``, which every backup raises too. Whom nothing else here changes
        is not changed.
        """
        held = encode_character({n: v for n, v in fields.items() if v is not None})
        _add_precondition(self._character(char_id), version, fields, held)
        return self

    def update_session(
        self,
        session_type: str,
        session_id: UUID | str,
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        log: Sequence[Any] = (),
    ) -> Self:
        """Write fields of an open session and append to its log, as the store's method does."""
        change = self._session(session_type, session_id)
        change.what = "write" if change.what == "guard" else change.what
        change.fields |= _session_fields(session_type, fields or {})
        change.log += encode_log(log)
        if change.log and not find_type(session_type).has_log:
            raise InvalidInput(f"a session of the type {session_type!r} has no log")
        return self

    def close_session(
        self, session_type: str, session_id: UUID | str, fields: Mapping[str, Any] | None = None, /
    ) -> Self:
        """Close an open session, with a last change if given; one that is closed is refused."""
        self.update_session(session_type, session_id, fields)
        self._session(session_type, session_id).what = "close"
        return self

    def expect_session(
        self,
        session_type: str,
        session_id: UUID | str,
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        version: int | None = None,
    ) -> Self:
        """Let all of it happen only if the session holds these values; None means none."""
        given = fields or {}
        held = encode_session(session_type, {n: v for n, v in given.items() if v is not None})
        _add_precondition(self._session(session_type, session_id), version, given, held)
        return self

    def _character(self, char_id: int) -> Change:
        return self.changes.setdefault(str(check_char_id(char_id)), Change(""))

    def _session(self, session_type: str, session_id: UUID | str) -> Change:
        find_type(session_type)
        name = session_name(session_type, session_uuid(session_id))
        return self.changes.setdefault(name, Change(session_type))


def _add_precondition(
    change: Change, version: int | None, given: Mapping[str, Any], held: Mapping[str, str]
) -> None:
    change.preconditions |= {name: held.get(name) for name in given}
    if version is not None:
        if type(version) is not int or version < 0:
            raise InvalidInput(f"the expected version must be an integer from 0, not {version!r}")
        change.preconditions["version"] = str(version)


def _session_fields(session_type: str, fields: Mapping[str, Any]) -> dict[str, str]:
    if "participants" in fields:
        raise InvalidField("participants", "changes by join_session and leave_session")
    return encode_session(session_type, fields)


def update_together(
    keys: Keys, changes: Together | Mapping[int, Mapping[str, Any]], /, *, durable: bool = False
) -> Command[dict[int, int]]:
    """Change several characters and sessions in one atomic step: all of it, or nothing.

    ``changes`` is a ``Together``, or fields by character: ``{1: {"gold": 90}, 2: {"gold": 110}}``.
    What is changed together is saved together, in one transaction. Returns the new version of each
    character that is changed. Raises PreconditionFailed where something is not as expected,
    CharacterNotLoaded, SessionNotFound, SessionClosed, GroupTooLarge, InvalidInput or CorruptState;
    then nothing is written. With ``durable`` it returns when PostgreSQL has it, or raises NotDurable.
    """
    if not isinstance(changes, Together):
        given, changes = changes, Together()
        for char_id, fields in given.items():
            changes.update(char_id, **fields)
    todo = changes.changes
    if all(one.what == "guard" for one in todo.values()):
        raise InvalidInput("nothing is to be changed: call update or update_session")
    if len(todo) > MAX_TIED:
        raise InvalidInput(
            f"{len(todo)} characters and sessions in one change; at most {MAX_TIED} can be"
        )
    changed = [name for name, one in todo.items() if name.isdigit() and one.what != "guard"]

    def receipts(versions: Mapping[str, int]) -> dict[int, int]:
        return {int(name): versions[name] for name in changed}

    return change(keys, todo, durable=durable).then(receipts)


_update_together = load_script("update_together")


def change(
    keys: Keys,
    todo: Mapping[str, Change],
    /,
    *,
    durable: bool = False,
    known: frozenset[str] = frozenset(),
    token: str = "",
) -> Command[dict[str, int]]:
    """Change members in one atomic step. Returns the version of each, by name."""
    token = token or str(uuid4())
    members = Members({*todo, *known, token})
    on = [keys.dirty, keys.since, keys.idempotency(token), *members.keys(keys)]
    anchor = members.characters[0] if members.characters else 0
    again = partial(change, keys, durable=durable, token=token)

    def parse(reply: Raw) -> dict[str, int] | Command[dict[str, int]]:
        if reply[0] == 0:
            return again(todo, known=known | found_members(anchor, on, reply[1]))
        if reply[0] == 1:
            return dict(zip(todo, map(int, reply[1]), strict=True))
        name, held = list(todo)[reply[1]], reply[3]
        as_found = _as_found(name, todo[name], reply[2].decode(), held)
        return again({**todo, name: as_found}, known=known)

    def receipts(reply: Raw) -> dict[int, int]:
        versions = dict(zip(todo, map(int, reply[1]), strict=True))
        return {i: versions.get(str(i), 0) for i in members.characters if _saves(i)}

    def _saves(char_id: int) -> bool:
        return str(char_id) not in todo or todo[str(char_id)].what != "guard"

    # Plain writes of one thing may be sent again; what counts, compares or appends may not.
    once = len(todo) > 1 or any(c.preconditions or c.log for c in todo.values())
    args: list[str | int] = [*members.counts(), MAX_TIED, token, _IDEMPOTENCY_MS if once else 0]
    args += [len(todo), *members.listed()]
    for name, one in todo.items():
        args += [name, one.what, len(one.preconditions)]
        for name_of, text in one.preconditions.items():
            args += [name_of, "-" if text is None else "=", text or ""]
        args += [len(one.fields), *flat(one.fields), len(one.log), *one.log]
    return Command(_update_together, on, args, parse, anchor, receipts if durable else None)


def _as_found(name: str, one: Change, field: str, raw: bytes | None) -> Change:
    """Return the change with the guard as the field is written, if that means the same.

    JSON may be written in many ways. Raises PreconditionFailed if it does not mean the same.
    """
    expected = one.preconditions[field]
    found = None if raw is None else raw.decode(errors="backslashreplace")
    if expected is not None and found is not None:
        is_json = (
            field in json_fields(one.session_type) if one.session_type else field in JSON_FIELDS
        )
        try:
            if is_json and load_json(expected) == load_json(found):
                return replace(one, preconditions={**one.preconditions, field: found})
        except (ValueError, RecursionError):
            pass
    session_type, colon, session_id = name.partition(":")
    whose = f"{session_type}:session:{session_id}" if colon else f"character {name}"
    raise PreconditionFailed(whose, field, expected, found)
