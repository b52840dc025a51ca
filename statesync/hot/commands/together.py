"""Owns the change of several characters and sessions in one step: the builder and its Command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any, Self
from uuid import UUID, uuid4

from statesync.errors import InvalidField, InvalidInput, PreconditionFailed
from statesync.hot.command import Command, Raw, load_script, pack
from statesync.hot.fields import gather_fields, list_writes, nonce_if
from statesync.hot.keys import Keys
from statesync.hot.members import MAX_TIED, Members, with_found
from statesync.state.characters import CORE_FIELDS, JSON_FIELDS, FieldValue, encode_character
from statesync.state.fields import MAX_VERSION, check_char_id, load_json, shown
from statesync.state.receipts import Receipt
from statesync.state.references import SessionRef, reference_field, session_uuid
from statesync.state.session_types import find_type
from statesync.state.sessions import encode_log, encode_session, json_fields

__all__ = ["Action", "Change", "Together", "change", "update_together"]

_IDEMPOTENCY_MS = 120_000
"""How long the answer to a change is kept, in case it is sent again: longer than clients retry."""


class Action(StrEnum):
    """What a change does to one character or session."""

    EXPECT = "expect"
    """Nothing but check its preconditions."""
    WRITE = "write"
    """Write fields, and append to the log of a session."""
    CLOSE = "close"
    """The same, and close the session; one that is closed is refused."""
    CLOSE_IF_OPEN = "close_if_open"
    """The same, and close the session; one that is closed stays as it is."""


@dataclass(slots=True)
class Change:
    """What is expected of one character or session, and what is to change in it."""

    session_type: str
    """The session's type; empty for a character."""
    action: Action = Action.EXPECT
    preconditions: dict[str, str | None] = field(default_factory=dict)
    """The text that each field must hold; None if it must be absent."""
    fields: dict[str, str | None] = field(default_factory=dict)
    """The text to write to each field; None deletes it."""
    log: list[str] = field(default_factory=list)


class Together:
    """A change to several characters and sessions: all of it happens, or nothing.

    Every method returns the builder, so that a trade reads as one sentence::

        sword = Together().expect(1, gold=100).update(1, gold=0).update(2, gold=150)
    """

    def __init__(self) -> None:
        self.changes: dict[str, Change] = {}
        """By the name of the member."""

    def update(
        self, char_id: int, fields: Mapping[str, FieldValue] | None = None, /, **more: FieldValue
    ) -> Self:
        """Write fields of a loaded character, as the store's method does; None deletes a field."""
        change = self._character(char_id)
        change.action = Action.WRITE
        change.fields |= encode_character(gather_fields(fields, more))
        return self

    def expect(
        self,
        char_id: int,
        fields: Mapping[str, FieldValue] | None = None,
        /,
        *,
        version: int | None = None,
        **more: FieldValue,
    ) -> Self:
        """Let all of it happen only if the character's fields hold these values; None is absent.

        Prefer fields to ``version``, which every backup raises too. A character that is only
        expected is not written.
        """
        expected = gather_fields(fields, more)
        absent = {name for name in CORE_FIELDS if name in expected and expected[name] is None}
        texts = encode_character({n: v for n, v in expected.items() if n not in absent})
        change = self._character(char_id)
        change.preconditions |= texts | dict.fromkeys(absent)
        _expect_version(change, version)
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
        if change.action == Action.EXPECT:
            change.action = Action.WRITE
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
        self._session(session_type, session_id).action = Action.CLOSE
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
        """Let all of it happen only if the session's fields hold these values; None is absent."""
        expected = fields or {}
        texts = encode_session(session_type, {n: v for n, v in expected.items() if v is not None})
        change = self._session(session_type, session_id)
        change.preconditions |= {name: texts.get(name) for name in expected}
        _expect_version(change, version)
        return self

    def _character(self, char_id: int) -> Change:
        return self.changes.setdefault(str(check_char_id(char_id)), Change(""))

    def _session(self, session_type: str, session_id: UUID | str) -> Change:
        find_type(session_type)
        ref = SessionRef(session_type, session_uuid(session_id))
        return self.changes.setdefault(ref.member, Change(session_type))


def _expect_version(change: Change, version: int | None) -> None:
    if version is None:
        return
    is_integer = isinstance(version, int) and type(version) is not bool
    if not is_integer or not 0 <= version <= MAX_VERSION:
        raise InvalidInput(f"the expected version must be an integer from 0, not {shown(version)}")
    change.preconditions["version"] = str(int(version))


def _session_fields(session_type: str, fields: Mapping[str, Any]) -> dict[str, str]:
    if "participants" in fields:
        raise InvalidField("participants", "changes by join_session and leave_session")
    return encode_session(session_type, fields)


def update_together(
    keys: Keys,
    changes: Together | Mapping[int, Mapping[str, FieldValue]],
    /,
    *,
    durable: bool = False,
    receipt: bool = False,
) -> Command[dict[int, Receipt]]:
    """Change several characters and sessions in one atomic step: all of it, or nothing.

    ``changes`` is a ``Together``, or fields by character: ``{1: {"gold": 90}, 2: {"gold": 110}}``.
    What is changed together is saved together, in one transaction. Returns the new version of each
    character that is changed. Raises PreconditionFailed if something is not as expected,
    CharacterNotLoaded, SessionNotFound, SessionNotLoaded, SessionClosed, GroupTooLarge,
    InvalidInput or CorruptState; then nothing is written. With ``durable`` it returns when
    PostgreSQL has it, or raises NotDurable.
    """
    if isinstance(changes, Together):
        builder = changes
    else:
        builder = Together()
        for char_id, fields in changes.items():
            builder.update(char_id, fields)
    todo = builder.changes
    if all(one.action == Action.EXPECT for one in todo.values()):
        raise InvalidInput("nothing is to be changed: call update or update_session")
    if len(todo) > MAX_TIED:
        raise InvalidInput(
            f"{len(todo)} characters and sessions in one change; at most {MAX_TIED} can be"
        )
    _check_sessions(todo)
    changed = [n for n, one in todo.items() if n.isdigit() and one.action != Action.EXPECT]

    def by_character(receipts: Mapping[str, Receipt]) -> dict[int, Receipt]:
        return {int(name): receipts[name] for name in changed}

    nonce = nonce_if(durable=durable, receipt=receipt)
    return change(keys, todo, durable=durable, nonce=nonce).then(by_character)


def _check_sessions(todo: Mapping[str, Change]) -> None:
    """Refuse new fields of sessions of one type that cannot all be saved. Raises InvalidField."""
    by_type: dict[str, list[dict[str, Any]]] = {}
    for one in todo.values():
        if one.session_type and one.fields:
            json = json_fields(one.session_type)
            values = {n: load_json(t) if t and n in json else t for n, t in one.fields.items()}
            by_type.setdefault(one.session_type, []).append(values)
    for session_type, changes in by_type.items():
        if len(changes) > 1:
            find_type(session_type).check_together(changes)


_update_together = load_script("update_together")


def change(
    keys: Keys,
    todo: Mapping[str, Change],
    /,
    *,
    durable: bool = False,
    nonce: str | None = None,
    known: frozenset[str] = frozenset(),
    token: str = "",
) -> Command[dict[str, Receipt]]:
    """Change members in one atomic step. Returns the version of each, by name."""
    token = token or str(uuid4())
    members = Members({*todo, *known, token})
    script_keys = [
        keys.dirty,
        keys.since,
        keys.idempotency(token),
        keys.nonces,
        *members.keys(keys),
    ]
    anchor = members.characters[0] if members.characters else 0
    again = partial(change, keys, durable=durable, nonce=nonce, token=token)

    def parse(reply: Raw) -> dict[str, Receipt] | Command[dict[str, Receipt]]:
        status, *rest = reply
        if status == 0:
            return again(todo, known=with_found(members.names, anchor, script_keys, rest[0]))
        if status == 1:
            return _receipts(todo, rest[0], nonce)
        position, field_name, raw = rest
        name = list(todo)[position]
        as_found = _as_found(name, todo[name], field_name.decode(), raw)
        return again({**todo, name: as_found}, known=known)

    def is_saved(name: str) -> bool:
        return name not in todo or todo[name].action != Action.EXPECT

    args = (pack(_script_args(members, todo, token, nonce)),)
    saves = [i for i in members.characters if is_saved(str(i))] if durable else None
    repeatable = _is_answered_once(todo)
    return Command(_update_together, script_keys, args, parse, anchor, saves, nonce, repeatable)


def _receipts(names: Iterable[str], versions: Raw, nonce: str | None) -> dict[str, Receipt]:
    return {
        name: Receipt(int(version), int(name) if name.isdigit() else None, nonce)
        for name, version in zip(names, versions, strict=True)
    }


def _is_answered_once(todo: Mapping[str, Change]) -> bool:
    """Return whether the answer to a change is kept, so that it may be sent again.

    Not for a plain write of one thing: there are too many. If its reply is lost, it is not sent
    again.
    """
    is_plain = len(todo) == 1 and not any(
        one.preconditions or one.log or one.action != Action.WRITE for one in todo.values()
    )
    return not is_plain


def _script_args(
    members: Members, todo: Mapping[str, Change], token: str, nonce: str | None
) -> dict[str, Any]:
    """Return what ``update_together.lua`` unpacks."""
    changes = [
        {
            "name": name,
            "action": one.action,
            "preconditions": [
                (field_name, False if text is None else text)
                for field_name, text in one.preconditions.items()
            ],
            "fields": list_writes(one.fields),
            "log": one.log,
            **_reference(name),
        }
        for name, one in todo.items()
    ]
    return {
        "members": members.listed(),
        "max_tied": MAX_TIED,
        "new_tie": token,
        "idempotency_ms": _IDEMPOTENCY_MS if _is_answered_once(todo) else 0,
        "changes": changes,
        **({"nonce": nonce} if nonce else {}),
    }


def _reference(name: str) -> dict[str, str]:
    """Return how a core points at a session; nothing for a character."""
    ref = SessionRef.from_member(name)
    if ref is None:
        return {}
    return {"reference_field": reference_field(ref.session_type), "session_id": ref.id}


def _as_found(name: str, change: Change, field_name: str, raw: bytes | None) -> Change:
    """Return the change with a precondition spelled as Redis spells it, if that means the same.

    JSON may be written in many ways. Raises PreconditionFailed if it does not mean the same.
    """
    expected = change.preconditions[field_name]
    found = None if raw is None else raw.decode(errors="backslashreplace")
    if expected is not None and found is not None and _is_json(change, field_name):
        try:
            if load_json(expected) == load_json(found):
                as_found = {**change.preconditions, field_name: found}
                return replace(change, preconditions=as_found)
        except (ValueError, RecursionError):
            pass
    ref = SessionRef.from_member(name)
    label = ref.label if ref else f"character {name}"
    raise PreconditionFailed(label, field_name, expected, found)


def _is_json(change: Change, field_name: str) -> bool:
    if change.session_type:
        return field_name in json_fields(change.session_type)
    return field_name in JSON_FIELDS
