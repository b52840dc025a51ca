"""Owns what is sent to Redis: one function per operation, each returning a Command. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from statesync import errors
from statesync.hot.command import (
    Claim,
    Command,
    Marks,
    QuarantineEntry,
    Raw,
    Status,
    flat,
    load_script,
    pairs,
)
from statesync.hot.keys import Keys
from statesync.state import session_types
from statesync.state.characters import Character, decode_character, encode_character
from statesync.state.fields import check_char_id, load_json

__all__ = [
    "Look",
    "Step",
    "claim",
    "claim_dirty",
    "count",
    "create",
    "discard_quarantined",
    "get",
    "list_quarantine",
    "look",
    "mark_dirty",
    "marks",
    "quarantine",
    "reconcile",
    "release",
    "requeue",
    "retry_quarantined",
    "status",
    "update",
]


def _args(*args: str | int) -> tuple[str | int, ...]:
    return args


def _nothing(_: Raw) -> None:
    return None


# What game code does


_update = load_script("update")


def update(keys: Keys, char_id: int, /, *, durable: bool = False, **fields: Any) -> Command[int]:
    """Write fields of a loaded character and mark it dirty, in one atomic step.

    ``location``, ``bio``, ``stats`` and ``vitals`` are mappings and replace the whole field;
    ``state`` and session ids are strings; any other field is the game's own, a string or a
    number. Returns the character's new version. Raises CharacterNotLoaded, InvalidField,
    InvalidCharId or CorruptState; then nothing is written. With ``durable`` it returns when
    PostgreSQL has the change, or raises NotDurable.
    """
    args = _args(check_char_id(char_id), *flat(encode_character(fields)))
    on = (keys.core(char_id), keys.dirty, keys.since)
    return Command(_update, on, args, int, char_id, _receipt(char_id) if durable else None)


def _receipt(char_id: int) -> Callable[[Raw], dict[int, int]]:
    return lambda version: {char_id: int(version)}


def mark_dirty(keys: Keys, char_id: int, /, *, durable: bool = False) -> Command[int]:
    """Mark a loaded character dirty, so that the next sweep saves it; returns its version.

    Raises CharacterNotLoaded, InvalidCharId or CorruptState.
    """
    return update(keys, char_id, durable=durable)


_create = load_script("create")


def create(keys: Keys, char_id: int, /, *, durable: bool = False, **fields: Any) -> Command[int]:
    """Create the core of a new character and mark it dirty, in one atomic step.

    Takes fields as ``update`` does. Returns the version, 1. Raises CharacterExists, InvalidField
    or InvalidCharId.
    """
    args = _args(check_char_id(char_id), *flat(encode_character(fields)))
    on = (keys.core(char_id), keys.dirty, keys.since)
    return Command(_create, on, args, int, char_id, _receipt(char_id) if durable else None)


_get = load_script("get")


def get(keys: Keys, char_id: int, /) -> Command[Character]:
    """Read a loaded character. Raises CharacterNotLoaded, InvalidCharId or CorruptState."""

    def parse(reply: Raw) -> Character:
        if not reply:
            raise errors.CharacterNotLoaded(char_id)
        return decode_character(char_id, pairs(reply))

    return Command(_get, (keys.core(check_char_id(char_id)),), (), parse, char_id)


# What a backup does


_claim = load_script("claim")


def claim(keys: Keys, char_id: int, lease_us: int, /) -> Command[tuple[Claim, bool]]:
    """Claim one character, dirty or not; also tells whether it was dirty or claimed."""

    def parse(reply: Raw) -> tuple[Claim, bool]:
        return Claim(char_id, int(reply[0])), bool(reply[1])

    check_char_id(char_id)
    return Command(
        _claim, (keys.dirty, keys.claimed, keys.since), (char_id, lease_us), parse, char_id
    )


_claim_dirty = load_script("claim_dirty")


class Step(NamedTuple):
    """One step of a pass over the dirty set."""

    claims: list[Claim]
    before: int
    """How many passes had been completed before it."""
    done: int | None
    """How many have been now; None where no more claims may be in flight."""
    fresh: bool
    """It was the first one of its pass."""

    @property
    def last(self) -> int:
        """The pass that will have met everybody who was dirty at this step: this one if it began
        here, else the next."""
        return self.before + (1 if self.fresh else 2)


def claim_dirty(keys: Keys, lease_us: int, max_in_flight: int, count: int, /) -> Command[Step]:
    """Claim some dirty characters, looking at about ``count``; all sweeps share one pass."""

    def parse(reply: Raw) -> Step:
        before, cursor, done, *rest = reply
        claims = [Claim(int(i), int(t)) for i, t in zip(rest[::2], rest[1::2], strict=True)]
        return Step(claims, int(before), None if done == b"full" else int(done), cursor == b"0")

    return Command(
        _claim_dirty,
        (keys.dirty, keys.claimed, keys.since, keys.quarantine, keys.sweep),
        (lease_us, max_in_flight, count),
        parse,
    )


_requeue = load_script("requeue")


def requeue(keys: Keys, limit: int, /, *, held: bool = False) -> Command[int]:
    """Put up to ``limit`` characters whose lease has ended back into the dirty set; with ``held``
    also those whose lease has not: who holds them finds his claim superseded."""
    return Command(_requeue, (keys.dirty, keys.claimed), (limit, int(held)), int)


_release = load_script("release")


def release(keys: Keys, held: Claim, /) -> Command[bool]:
    """Give a claim back: the character is dirty again. False if the claim was not ours."""
    return Command(_release, (keys.dirty, keys.claimed), held, bool, held.char_id)


_quarantine = load_script("quarantine")


def quarantine(keys: Keys, held: Claim, error: str, field: str, /) -> Command[bool]:
    """Set a claimed character aside; its data stays. False if the claim was not ours."""
    args = (*held, error[:1000], field[:200])
    return Command(_quarantine, (keys.claimed, keys.quarantine), args, bool, held.char_id)


_reconcile = load_script("reconcile")


def reconcile(
    keys: Keys, char_id: int, version: int, missing: Mapping[str, str], /
) -> Command[bool]:
    """Raise a core's version to ``version`` and add the fields it lacks. False if it is gone."""
    args = _args(version, *flat(missing))
    return Command(_reconcile, (keys.core(char_id),), args, bool, char_id)


# What a restore does


_look = load_script("look")


class Look(NamedTuple):
    """What a live core says of itself."""

    version: int
    """0 where it has none."""
    references: dict[str, str]
    """The ids of its sessions, by type."""


def look(keys: Keys, char_id: int, /) -> Command[Look | None]:
    """Look at a core before a restore; None where it is not loaded."""
    kinds = session_types.names()

    def parse(reply: Raw) -> Look | None:
        if not reply[0]:
            return None
        held = zip(kinds, reply[2:], strict=False)
        return Look(
            int(reply[1]) if reply[1].isdigit() else 0,
            {kind: text.decode(errors="replace") for kind, text in held if text},
        )

    args = [session_types.reference_field(kind) for kind in kinds]
    return Command(_look, (keys.core(check_char_id(char_id)),), args, parse, char_id)


# What operators do


_count = load_script("count")


def count(keys: Keys, numbers: Mapping[str, int], /) -> Command[None]:
    """Add to the shared counters."""
    args = [part for item in numbers.items() for part in item]
    return Command(_count, (keys.stats,), args, _nothing)


_status = load_script("status")


def status(keys: Keys, /) -> Command[Status]:
    """Read how much is unsaved, since when, and the shared counters."""

    def parse(reply: Raw) -> Status:
        oldest = int(reply[5]) - int(float(reply[4])) if reply[4] else None
        counters = {name.decode(): int(value) for name, value in pairs(reply[6:]).items()}
        dirty, claimed, expired, quarantined = reply[:4]
        return Status(dirty, claimed, expired, quarantined, oldest, counters)

    return Command(
        _status, (keys.dirty, keys.claimed, keys.since, keys.quarantine, keys.stats), (), parse
    )


_marks = load_script("marks")


def marks(keys: Keys, char_id: int, /) -> Command[Marks]:
    """Read the marks of one character."""

    def parse(reply: Raw) -> Marks:
        return Marks(
            dirty=bool(reply[0]),
            token=int(float(reply[1])) if reply[1] else None,
            since_ms=int(float(reply[2])) if reply[2] else None,
            quarantine=_entry(str(char_id).encode(), reply[3]) if reply[3] else None,
        )

    check_char_id(char_id)
    return Command(
        _marks, (keys.dirty, keys.claimed, keys.since, keys.quarantine), (char_id,), parse, char_id
    )


_list_quarantine = load_script("list_quarantine")


def list_quarantine(
    keys: Keys, cursor: int = 0, count: int = 500, /
) -> Command[tuple[int, list[QuarantineEntry]]]:
    """Read a page of the quarantine: the next cursor (0 at the end) and the entries."""

    def parse(reply: Raw) -> tuple[int, list[QuarantineEntry]]:
        return int(reply[0]), [_entry(name, raw) for name, raw in pairs(reply[1:]).items()]

    return Command(_list_quarantine, (keys.quarantine,), (cursor, count), parse)


_retry_quarantined = load_script("retry_quarantined")


def retry_quarantined(keys: Keys, char_id: int, /) -> Command[bool]:
    """Mark a quarantined character dirty again. False if it was not in quarantine."""
    args = (check_char_id(char_id),)
    return Command(_retry_quarantined, (keys.quarantine, keys.dirty), args, bool, char_id)


_discard_quarantined = load_script("discard_quarantined")


def discard_quarantined(keys: Keys, name: str, /) -> Command[bool]:
    """Forget a quarantine entry; the data in Redis is not touched. False if there was none."""
    on = (keys.quarantine, keys.dirty, keys.claimed, keys.since)
    return Command(_discard_quarantined, on, (name,), bool)


def _entry(name: bytes, raw: bytes) -> QuarantineEntry:
    try:
        entry = load_json(raw)
        return QuarantineEntry(
            name=name.decode(errors="backslashreplace"),
            error=str(entry["error"]),
            field=entry.get("field"),
            attempts=int(entry["attempts"]),
            first_at=float(entry["first_at"]),
            last_at=float(entry["last_at"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        text = name.decode(errors="backslashreplace")
        return QuarantineEntry(text, "(this entry is not statesync's)", None, 0, 0.0, 0.0)
