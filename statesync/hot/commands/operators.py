"""Owns what operators send to Redis: one function per operation. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

import msgspec

from statesync.errors import InvalidCharId, InvalidInput
from statesync.hot.command import Command, Raw, load_script, pairs
from statesync.hot.commands.servers import CoreHead
from statesync.hot.commands.transfer import TOMBSTONE_MS
from statesync.hot.keys import Keys
from statesync.state.fields import MAX_VERSION, check_char_id, parse_char_id
from statesync.state.references import SessionRef, reference_field, session_uuid
from statesync.state.session_types import names

__all__ = [
    "Found",
    "Pending",
    "PendingList",
    "QuarantineEntry",
    "Status",
    "SyncState",
    "count",
    "discard_quarantined",
    "forget",
    "list_quarantine",
    "mark_unsaved",
    "pending",
    "retry_quarantined",
    "scan",
    "status",
    "sync_state",
]


class Pending(NamedTuple):
    """A character with unsaved changes."""

    name: str
    """A char_id, or what was taken for one."""
    age_ms: int | None
    """Since the first unsaved change; None if a bare writer's mark was never claimed."""
    marks: tuple[str, ...]
    """Those of ``dirty``, ``claimed`` and ``quarantined`` that it has."""


class PendingList(NamedTuple):
    """How many characters have unsaved changes, by their marks, and the oldest of them."""

    dirty: int
    claimed: int
    quarantined: int
    characters: list[Pending]


_pending = load_script("pending")


def pending(keys: Keys, char_id: int | None = None, /, *, limit: int) -> Command[PendingList]:
    """Read up to ``limit`` characters with unsaved changes, the oldest first; or one alone."""

    def parse(reply: Raw) -> PendingList:
        rows = zip(reply[3::3], reply[4::3], reply[5::3], strict=True)
        listed = [
            Pending(
                name.decode(errors="backslashreplace"),
                int(age) if age else None,
                tuple(marks.decode().split()),
            )
            for name, age, marks in rows
        ]
        dirty, claimed, quarantined = reply[:3]
        return PendingList(dirty, claimed, quarantined, listed)

    args = (limit, "" if char_id is None else check_char_id(char_id))
    script_keys = (keys.dirty, keys.claimed, keys.since, keys.quarantine)
    return Command(_pending, script_keys, args, parse, char_id or 0, repeatable=True)


_scan = load_script("scan")


class Found(NamedTuple):
    """A page of a walk over all keys."""

    cursor: int
    """Where the next page starts; 0 at the end."""
    keys: int
    """How many keys there are in all, ours or not."""
    char_ids: list[int]
    sessions: list[SessionRef]
    """Those of registered types."""
    evicted: list[int | str]
    """Characters, and ids of sessions, that left Redis a short time ago."""


def scan(keys: Keys, cursor: int, /, *, count: int) -> Command[Found]:
    """Look at about ``count`` keys; return the cores, sessions and tombstones among them."""

    def parse(reply: Raw) -> Found:
        char_ids: list[int] = []
        sessions: list[SessionRef] = []
        evicted: list[int | str] = []
        for raw in reply[2:]:
            session_type, _, text = raw.decode().partition(":")
            try:
                if session_type == "ac":
                    char_ids.append(parse_char_id(text))
                elif session_type == "statesync":
                    evicted.append(_evicted(text.removeprefix("evicted:")))
                elif session_type in names():
                    session_id = session_uuid(text.removeprefix("session:"))
                    sessions.append(SessionRef(session_type, session_id))
            except (InvalidCharId, InvalidInput):
                continue  # only looks like one of ours
        return Found(int(reply[0]), reply[1], char_ids, sessions, evicted)

    args = (cursor, count, keys.prefix)
    return Command(_scan, (keys.servers,), args, parse, repeatable=True)


def _evicted(text: str) -> int | str:
    return session_uuid(text) if "-" in text else parse_char_id(text)


_mark_unsaved = load_script("mark_unsaved")


def mark_unsaved(
    keys: Keys,
    char_id: int,
    unsaved: SessionRef | None = None,
    /,
    *,
    head: CoreHead | None = None,
) -> Command[bool]:
    """Mark a character that is loaded, has no mark, and may not be saved.

    If it was compared with its row, only if that is still so: with ``unsaved``, if it points at
    that session, which is not saved; with ``head``, if the core is as it was read there, which is
    not as its row. False if there was nothing to do.
    """
    args: list[str | int | bytes] = [char_id]
    if unsaved or head:
        session_type, session_id = unsaved or ("", "")
        args += [reference_field(session_type) if unsaved else "", session_id]
        args += [part if part is not None else "" for part in head or ()]
    script_keys = [*_core_and_marks(keys, char_id), keys.seals]
    # Repeatable: a mark that is not needed is harmless.
    return Command(_mark_unsaved, script_keys, args, bool, char_id, repeatable=True)


def _core_and_marks(keys: Keys, char_id: int) -> list[str]:
    core = keys.core(check_char_id(char_id))
    return [core, keys.dirty, keys.claimed, keys.since, keys.quarantine]


_forget = load_script("forget")


def forget(keys: Keys, char_id: int, sessions: Sequence[SessionRef], /) -> Command[bool]:
    """Remove what Redis holds of a deleted character, and those of ``sessions`` that name no other.

    False if it was not loaded.
    """
    script_keys = [
        *_core_and_marks(keys, char_id),
        *(keys.tombstone(char_id), keys.seals, keys.nonces),
        *(keys.session(*ref) for ref in sessions),
        *(keys.session_log(*ref) for ref in sessions),
        *(keys.tombstone(session_id) for _, session_id in sessions),
    ]
    session_ids = [ref.id for ref in sessions]
    args: list[str | int] = [char_id, TOMBSTONE_MS, MAX_VERSION, *session_ids]
    # Repeatable: what others write to a deleted character is not saved either.
    return Command(_forget, script_keys, args, bool, char_id, repeatable=True)


class QuarantineEntry(NamedTuple):
    """Why a character could not be saved, and since when (Unix seconds)."""

    name: str
    error: str
    field: str | None
    attempts: int
    first_at: float
    last_at: float


class SyncState(NamedTuple):
    """The marks of one character."""

    dirty: bool
    token: int | None
    since_ms: int | None
    quarantine: QuarantineEntry | None


class Status(NamedTuple):
    """How much is unsaved, and the shared counters."""

    dirty: int
    claimed: int
    expired: int
    """Of the claimed ones, those whose lease has ended."""
    quarantined: int
    oldest_ms: int | None
    """Age of the oldest unsaved change that waits to be saved: not of one in quarantine."""
    counters: dict[str, int]
    comparing: bool
    """A server went back or has started: everything live is being compared with its rows."""
    settling: bool
    """That server is Redis: a core that knows no row is not laid over one."""
    recovering: bool
    """PostgreSQL went back: everything live is being saved again before anything is restored."""


_count = load_script("count")


def count(
    keys: Keys, numbers: Mapping[str, int], observed: Mapping[str, int] | None = None, /
) -> Command[None]:
    """Add to the shared counters, and what was ``observed`` to the histograms."""
    items = [*numbers.items(), *(observed or {}).items()]
    args = [len(numbers), *(part for item in items for part in item)]
    # Not repeatable: it would count twice.
    return Command(_count, (keys.stats, keys.histograms), args, lambda _: None)


_status = load_script("status")
_NAME, _NUMBER = re.compile(rb"[a-z_]+"), re.compile(rb"[0-9]{1,18}")


def status(keys: Keys, /) -> Command[Status]:
    """Read how much is unsaved, since when, the shared counters, and whether a loss is settled."""

    def parse(reply: Raw) -> Status:
        dirty, claimed, expired, quarantined, oldest_at, now_ms, *flags = reply[:9]
        oldest_ms = int(now_ms) - int(float(oldest_at)) if oldest_at else None
        counters = {
            name.decode(): int(value)
            for name, value in pairs(reply[9:]).items()
            if _NAME.fullmatch(name) and _NUMBER.fullmatch(value)  # others may have put more there
        }
        marks = (dirty, claimed, expired, quarantined)
        return Status(*marks, oldest_ms, counters, *map(bool, flags))

    marks = (keys.dirty, keys.claimed, keys.since, keys.quarantine)
    script_keys = (*marks, keys.stats, keys.servers)
    return Command(_status, script_keys, (), parse, repeatable=True)


_sync_state = load_script("sync_state")


def sync_state(keys: Keys, char_id: int, /) -> Command[SyncState]:
    """Read the marks of one character."""

    def parse(reply: Raw) -> SyncState:
        dirty, token, since_ms, entry = reply
        return SyncState(
            dirty=bool(dirty),
            token=_score(token),
            since_ms=_score(since_ms),
            quarantine=_entry(str(char_id).encode(), entry) if entry else None,
        )

    script_keys = (keys.dirty, keys.claimed, keys.since, keys.quarantine)
    args = (check_char_id(char_id),)
    return Command(_sync_state, script_keys, args, parse, char_id, repeatable=True)


def _score(raw: bytes) -> int | None:
    score = float(raw or "inf")
    return int(score) if math.isfinite(score) else None


_list_quarantine = load_script("list_quarantine")


def list_quarantine(
    keys: Keys, cursor: int = 0, /, *, count: int = 500
) -> Command[tuple[int, list[QuarantineEntry]]]:
    """Read a page of the quarantine: the next cursor (0 at the end) and the entries."""

    def parse(reply: Raw) -> tuple[int, list[QuarantineEntry]]:
        return int(reply[0]), [_entry(name, raw) for name, raw in pairs(reply[1:]).items()]

    args = (cursor, count)
    return Command(_list_quarantine, (keys.quarantine,), args, parse, repeatable=True)


_retry_quarantined = load_script("retry_quarantined")


def retry_quarantined(keys: Keys, char_id: int, /) -> Command[bool]:
    """Mark a quarantined character dirty again. False if it was not in quarantine.

    Raises CharacterNotLoaded: there is nothing to save then, until it is restored.
    """
    args = (check_char_id(char_id),)
    script_keys = (keys.quarantine, keys.dirty, keys.core(char_id))
    # Repeatable: a mark that is not needed is harmless.
    return Command(_retry_quarantined, script_keys, args, bool, char_id, repeatable=True)


_discard_quarantined = load_script("discard_quarantined")


def discard_quarantined(keys: Keys, name: str, /) -> Command[bool]:
    """Remove a quarantine entry; the data in Redis is not touched. False if there was none."""
    script_keys = (keys.quarantine, keys.dirty, keys.claimed, keys.since)
    # Not repeatable: there may be a new entry by now.
    return Command(_discard_quarantined, script_keys, (name,), bool)


_Time = Annotated[float, msgspec.Meta(ge=0, lt=datetime.max.replace(tzinfo=UTC).timestamp())]


class _Reason(msgspec.Struct):
    """An entry of the quarantine as ``shared/quarantine.lua`` writes it."""

    error: str
    attempts: Annotated[int, msgspec.Meta(ge=0, le=MAX_VERSION)]
    first_at: _Time
    last_at: _Time
    field: str | None = None


_read_reason = msgspec.json.Decoder(_Reason).decode


def _entry(name: bytes, raw: bytes) -> QuarantineEntry:
    text = name.decode(errors="backslashreplace")
    try:
        entry = _read_reason(raw)
    except (ValueError, RecursionError):
        return QuarantineEntry(text, "(this entry is not statesync's)", None, 0, 0.0, 0.0)
    times = entry.first_at, entry.last_at
    return QuarantineEntry(text, entry.error, entry.field, entry.attempts, *times)
