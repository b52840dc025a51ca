"""Owns what moves state between Redis and PostgreSQL: peek, restore, reconcile, evict. No I/O.

The participants of a session stand in Redis, so an eviction is tried with the known ones, and sent
again if the script finds others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from statesync import errors
from statesync.hot.command import Command, Raw, error_of, flat, load_script, pack
from statesync.hot.commands.claims import Claim
from statesync.hot.fields import list_writes
from statesync.hot.keys import Keys
from statesync.state.fields import check_char_id, version_or_none
from statesync.state.outcomes import SessionOutcome
from statesync.state.references import SessionRef, reference_field, session_uuid
from statesync.state.session_types import names
from statesync.state.sessions import Session, read_participants, read_references, write_session

__all__ = [
    "TOMBSTONE_MS",
    "CoreOutcome",
    "Peek",
    "Presence",
    "RestoreItem",
    "RestoreResult",
    "evict",
    "item_keys",
    "packed_item",
    "peek",
    "peek_session",
    "presence",
    "reconcile",
    "reconcile_session",
    "restore",
    "set_tombstone",
    "stage",
    "staged_name",
]

TOMBSTONE_MS = 600_000
"""How long a tombstone stays: longer than any restore takes from its read to its script."""

_STAGED_MS = 600_000
"""How long a staged log is kept, should the restore that staged it have died."""


_evict = load_script("evict")


def evict(keys: Keys, char_id: int, /, *, tombstone_ms: int = TOMBSTONE_MS) -> Command[bool]:
    """Delete a core from Redis if all of it is saved; False if it has unsaved changes.

    Its sessions go with the last participant that points at them. For ``tombstone_ms`` afterwards,
    a restore that read an older row cannot bring it back. Raises InvalidCharId or CorruptState.
    """
    return _try_evict(keys, check_char_id(char_id), tombstone_ms, {}, ())


def _try_evict(
    keys: Keys,
    char_id: int,
    tombstone_ms: int,
    references: Mapping[str, str],
    others: Sequence[int],
) -> Command[bool]:
    """Evict a character that is in the sessions of ``references``, together with ``others``."""
    refs = [SessionRef(*reference) for reference in references.items()]

    def parse(reply: Raw) -> bool | Command[bool]:
        if reply[0] != -1:
            return bool(reply[0])
        _, raw_ids, raw_participants = reply
        named = (
            read_participants(ref.label, char_id, raw)
            for ref, raw in zip(refs, raw_participants, strict=True)
        )
        more = {*others, *chain.from_iterable(named)} - {char_id}
        found = read_references(char_id, raw_ids)
        return _try_evict(keys, char_id, tombstone_ms, found, sorted(more))

    script_keys = [
        *(keys.core(char_id), keys.dirty, keys.claimed, keys.since),
        *(keys.tombstone(char_id), keys.quarantine, keys.seals, keys.nonces, keys.servers),
        *(keys.session(*ref) for ref in refs),
        *(keys.session_log(*ref) for ref in refs),
        *(keys.tombstone(ref.id) for ref in refs),
        *map(keys.core, others),
    ]
    args = {
        "char_id": str(char_id),
        "tombstone_ms": tombstone_ms,
        "references": [(reference_field(t), references.get(t, "")) for t in names()],
        "sessions": len(refs),
        "others": [*map(str, others)],
    }
    # Repeatable: it deletes only what is saved.
    return Command(_evict, script_keys, (pack(args),), parse, char_id, repeatable=True)


class Presence(StrEnum):
    """Whether Redis holds a character, and why it cannot go to another realm if it does."""

    ABSENT = "absent"
    LIVE = "live"
    UNSAVED = "unsaved"
    """It is not loaded, and dirty, claimed or quarantined all the same."""
    TIED = "tied"
    IN_SESSION = "in_session"


_set_tombstone = load_script("set_tombstone")


def presence(keys: Keys, char_id: int, /) -> Command[Presence]:
    """Tell whether Redis holds a character. Raises as ``set_tombstone`` does."""
    return _presence(keys, char_id, "")


def set_tombstone(keys: Keys, char_id: int, version: int, /) -> Command[Presence]:
    """Keep rows below ``version`` from being restored, if the character is ``ABSENT``.

    For ten minutes. Raises InvalidCharId, CorruptState or DatabaseWentBack.
    """
    return _presence(keys, char_id, version)


def _presence(keys: Keys, char_id: int, version: int | str) -> Command[Presence]:
    script_keys = [
        *(keys.core(check_char_id(char_id)), keys.dirty, keys.claimed, keys.quarantine),
        *(keys.tombstone(char_id), keys.servers),
    ]
    args = [char_id, version, TOMBSTONE_MS, *map(reference_field, names())]

    def parse(reply: Raw) -> Presence:
        return Presence(reply.decode())

    return Command(_set_tombstone, script_keys, args, parse, char_id, repeatable=True)


# What a save does that finds its row ahead


_peek_session = load_script("peek_session")


def peek_session(keys: Keys, session_type: str, session_id: UUID | str, /) -> Command[int]:
    """Return the version of a live session, 0 if it has none; -1 if the session is gone."""
    script_keys = (keys.session(session_type, session_uuid(session_id)),)
    return Command(_peek_session, script_keys, (), int, repeatable=True)


_reconcile = load_script("reconcile")


def reconcile(
    keys: Keys,
    claim: Claim,
    /,
    *,
    seal: int,
    version: int,
    missing: Mapping[str, str] | None = None,
    row_seal: int | None = None,
    stump_sweeps: int | None = None,
) -> Command[bool]:
    """Raise a claimed core's version to its row's and add the fields it lacks.

    ``seal`` is that of the snapshot that found it: a Redis that has forgotten it does nothing.

    ``stump_sweeps`` is given if a bare writer has made the core: the counter of sweeps as it was
    when that was found. From then on it is saved as the row is, which has the ``row_seal``. False
    if the core is gone, the claim is lost, a loss is being settled, or Redis has gone back to a
    lower counter: then a stump may be of a history that Redis has forgotten.
    """
    key = keys.core(claim.char_id)
    row = _Row(claim, str(claim.char_id), seal, version, row_seal, stump_sweeps)
    return _reconciled(keys, key, row, missing or {})


def reconcile_session(
    keys: Keys, claim: Claim, ref: SessionRef, /, *, seal: int, version: int
) -> Command[bool]:
    """Raise a session's version to its row's, under the claim of a character in its group.

    False if it is gone or the claim is lost.
    """
    return _reconciled(keys, keys.session(*ref), _Row(claim, ref.id, seal, version), {})


class _Row(NamedTuple):
    """What ``reconcile`` brings a hash up to, and by which snapshot that was found."""

    claim: Claim
    id: str
    snapshot_seal: int
    version: int
    seal: int | None = None
    stump_sweeps: int | None = None


def _reconciled(keys: Keys, key: str, row: _Row, missing: Mapping[str, str]) -> Command[bool]:
    claim, member, snapshot_seal, version, row_seal, sweeps = row
    found_by = (str(claim.char_id), str(claim.token), member, str(snapshot_seal))
    seal = "" if row_seal is None else str(row_seal)
    args = pack((*found_by, str(version), seal, False if sweeps is None else sweeps, flat(missing)))
    script_keys = (key, keys.claimed, keys.seals, keys.servers)
    repeatable = not missing  # a field that it has added may have been deleted since
    return Command(_reconcile, script_keys, (args,), bool, claim.char_id, repeatable=repeatable)


# What a restore does


_stage = load_script("stage")


def staged_name(session: Session) -> str:
    """Return the name under which the log of a loaded session is staged.

    It is the same each time, so a restore that is repeated uses what is there.
    """
    return f"{session.id}:{session.version}:{len(session.log)}"


def stage(keys: Keys, name: str, entries: Sequence[str], /, *, start: int) -> Command[int]:
    """Store the entries from ``start`` of a log that ``restore`` will put under its own key."""
    # Repeatable: entries are added only to as many as came before them.
    args: list[str | int] = [start, _STAGED_MS, *entries]
    return Command(_stage, (keys.staged(name),), args, int, repeatable=True)


class RestoreItem(NamedTuple):
    """A character to restore, and its sessions."""

    char_id: int
    version: int | None
    """Its row's; None if only sessions of a live core are to be restored."""
    core: Mapping[str, str] = {}
    sessions: Mapping[str, Session] = {}
    """By the name under which their logs are staged."""
    changed: bool = False
    """Whether the core is not what its row says; then it is marked dirty."""
    seals: Mapping[int | UUID, int] = {}
    """The seals of the rows, by id; only of rows that have one."""


class CoreOutcome(StrEnum):
    """What became of one core in a restore."""

    RESTORED = "restored"
    """It was absent and holds the row now."""
    LIVE = "live"
    """It was in Redis already; left alone."""
    STALE = "stale"
    """The row was read too early: read it again."""


class RestoreResult(NamedTuple):
    """What became of one RestoreItem."""

    core: CoreOutcome
    sessions: Sequence[SessionOutcome]
    """``RESTORED``, ``LIVE``, or ``LEFT`` if the core does not point at it; none if stale."""


_restore = load_script("restore")


def restore(
    keys: Keys, todo: Sequence[RestoreItem], /
) -> Command[list[RestoreResult | errors.StatesyncError]]:
    """Restore cores and sessions that are absent. What became of a core is counted.

    Instead of a result there may be CorruptState, if Redis holds something else under a key.
    """
    marks = (keys.dirty, keys.since, keys.stats, keys.seals)
    script_keys = [*marks, keys.servers, keys.nonces]
    for item in todo:
        script_keys += item_keys(keys, item)

    def parse(reply: Raw) -> list[RestoreResult | errors.StatesyncError]:
        return [
            _result(text) or error_of(text.decode(), script_keys, item.char_id)
            for item, text in zip(todo, reply, strict=True)
        ]

    # Repeatable: what is there by then is left alone.
    packed_items = pack([*map(packed_item, todo)])
    return Command(_restore, script_keys, (packed_items,), parse, repeatable=True)


@cache
def _result(text: bytes) -> RestoreResult | None:
    """Return what the script says of a character; None if it is an error."""
    core, *sessions = text.decode().split()
    if core.isupper():
        return None
    return RestoreResult(CoreOutcome(core), [*map(SessionOutcome, sessions)])


def item_keys(keys: Keys, item: RestoreItem) -> list[str]:
    """Return the keys of an item, as ``shared/restore.lua`` takes them."""
    script_keys = [keys.core(item.char_id), keys.tombstone(item.char_id)]
    for name, session in item.sessions.items():
        script_keys += (keys.session(*session.ref), keys.session_log(*session.ref))
        script_keys += (keys.tombstone(session.ref.id), keys.staged(name))
    return script_keys


def packed_item(item: RestoreItem) -> tuple[Any, ...]:
    """Return an item as ``shared/restore.lua`` reads it."""
    version = "" if item.version is None else str(item.version)
    fields = (flat({"version": version, "saved_version": version, **item.core}),)
    sessions = [
        (
            reference_field(session.session_type),
            str(session.id),
            str(session.version),
            len(session.log),
            list_writes({"version": str(session.version), **write_session(session)}),
            str(item.seals.get(session.id, "")),
        )
        for session in item.sessions.values()
    ]
    seal = str(item.seals.get(item.char_id, ""))
    return str(item.char_id), version, bool(item.changed), fields, sessions, seal


_peek = load_script("peek")


class Peek(NamedTuple):
    """The version of a live core, and where it points."""

    version: int
    """0 if it has none."""
    references: dict[str, str]
    """The ids of its sessions, by type."""
    is_hash: bool = True


def peek(keys: Keys, char_id: int, /) -> Command[Peek | None]:
    """Read where a core stands before a restore; None if it is not loaded."""
    session_types = names()

    def parse(reply: Raw) -> Peek | None:
        is_loaded, version, *raw_ids = reply
        if not is_loaded:
            return None
        references = {
            session_type: raw.decode(errors="replace")
            for session_type, raw in zip(session_types, raw_ids, strict=False)
            if raw
        }
        return Peek(version_or_none(version) or 0, references, is_loaded == 1)

    args = [*map(reference_field, session_types)]
    script_keys = (keys.core(check_char_id(char_id)),)
    return Command(_peek, script_keys, args, parse, char_id, repeatable=True)
