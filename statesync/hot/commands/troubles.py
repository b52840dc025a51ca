"""Owns the notes of workers on servers that refuse their work now. No I/O.

A note ends with the next success of the same kind of work, or by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec

from statesync.hot.command import Command, Raw, load_script, pairs
from statesync.hot.keys import Keys

__all__ = ["Server", "Trouble", "Work", "end_troubles", "note_trouble", "troubles"]


class Server(StrEnum):
    """What a worker works with."""

    REDIS = "redis"
    POSTGRESQL = "postgresql"
    BROKER = "broker"


class Work(StrEnum):
    """What a worker does: a server may refuse one kind of work, and allow another."""

    BACKUP = "backup"
    RESTORE = "restore"
    SWEEP = "sweep"
    CLAIM = "claim"
    """What a sweep does if it finds something: only then it meets a right that is missing."""
    SCRUB = "scrub"


class Trouble(NamedTuple):
    """Why a server refuses the work of workers, by the clock of Redis (Unix ms)."""

    error: str
    """The last one. It may hold anything: escape it."""
    since_ms: int
    last_ms: int
    works: frozenset[Work]
    """What it refuses."""


_Ms = Annotated[int, msgspec.Meta(ge=0, lt=253_402_300_800_000)]
"""Unix ms before the year 10,000: later ones are no dates."""


class _Note(msgspec.Struct):
    """A note as ``note_trouble.lua`` writes it."""

    error: str
    since_ms: _Ms
    last_ms: _Ms
    until_ms: _Ms


_read_note = msgspec.json.Decoder(_Note).decode
_note_trouble = load_script("note_trouble")


def note_trouble(
    keys: Keys, server: Server, work: Work, error: str, /, *, keep_ms: int
) -> Command[None]:
    """Note that a server refuses a kind of work. The note ends ``keep_ms`` after the last news."""
    args = (f"{server}:{work}", error, keep_ms)
    # Repeatable: the later time is as true.
    return Command(_note_trouble, (keys.troubles,), args, lambda _: None, repeatable=True)


_end_troubles = load_script("end_troubles")


def end_troubles(keys: Keys, work: Work, /) -> Command[bool]:
    """Remove the notes on all servers that one kind of work needs. False if there was none."""
    names = [f"{server}:{work}" for server in Server]
    # Repeatable: if the server refuses the work again, the next failure says so.
    return Command(_end_troubles, (keys.troubles,), names, bool, repeatable=True)


_troubles = load_script("troubles")


def troubles(keys: Keys, /) -> Command[dict[Server, Trouble]]:
    """Read which servers refuse the work of workers, and why."""

    def parse(reply: Raw) -> dict[Server, Trouble]:
        return _read(int(reply[0]), reply[1:])

    return Command(_troubles, (keys.troubles,), (), parse, repeatable=True)


def _read(now_ms: int, reply: Sequence[bytes]) -> dict[Server, Trouble]:
    """Return the notes that have not ended, as one for each server."""
    found: dict[Server, Trouble] = {}
    for name, raw in pairs(reply).items():
        server_name, _, work_name = name.decode(errors="replace").partition(":")
        try:
            server, work, note = Server(server_name), Work(work_name), _read_note(raw)
        except (ValueError, RecursionError):
            continue  # it is not ours
        if note.until_ms > now_ms:
            trouble = Trouble(note.error, note.since_ms, note.last_ms, frozenset((work,)))
            found[server] = _merged(trouble, found[server]) if server in found else trouble
    return found


def _merged(one: Trouble, other: Trouble) -> Trouble:
    last = max(one, other, key=lambda trouble: trouble.last_ms)
    since_ms = min(one.since_ms, other.since_ms)
    return last._replace(since_ms=since_ms, works=one.works | other.works)
