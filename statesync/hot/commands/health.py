"""Owns what tells whether Redis is set up well, whether the schedule works, and how. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from statesync.hot.command import Command, Raw, load_script, pairs
from statesync.hot.keys import Keys

__all__ = [
    "Examined",
    "Figures",
    "UsedMemory",
    "examine",
    "figures",
    "heartbeat",
    "note_scrub",
    "unwritten",
]

_NUMBER = re.compile(rb"[0-9]{1,18}")
_heartbeat = load_script("heartbeat")


def heartbeat(keys: Keys, /) -> Command[None]:
    """Note that the schedule works: a sweep that it sent has arrived."""
    # Repeatable: the later time is as true.
    return Command(_heartbeat, (keys.heartbeat,), (), lambda _: None, repeatable=True)


_examine = load_script("examine")


_note_scrub = load_script("note_scrub")


def note_scrub(keys: Keys, /) -> Command[None]:
    """Note that a scrub has come to its end."""
    # Repeatable: the later time is as true.
    return Command(_note_scrub, (keys.scrubbed,), (), lambda _: None, repeatable=True)


class UsedMemory(NamedTuple):
    """How much memory Redis used some time ago."""

    age_ms: int
    used_bytes: int


class Examined(NamedTuple):
    """How Redis is set up."""

    info: dict[str, str]
    """What ``INFO`` says."""
    now_us: int
    before: UsedMemory | None
    """As the sweeps note it twice a day; None if there was none yet."""
    expiring: list[int]
    """Of the characters asked for, those whose core would expire."""


def examine(keys: Keys, char_ids: Sequence[int], /) -> Command[Examined]:
    """Read how Redis is set up, and which of some cores would expire."""

    def parse(reply: Raw) -> Examined:
        raw_info, now_us, raw_note, *all_expire = reply
        info = _server_info(raw_info)
        expiring = [i for i, expires in zip(char_ids, all_expire, strict=True) if expires]
        before = _used_memory(raw_note, int(now_us) // 1000)
        return Examined(info, int(now_us), before, expiring)

    script_keys = (keys.servers, *map(keys.core, char_ids))
    return Command(_examine, script_keys, (), parse, repeatable=True)


class Figures(NamedTuple):
    """What operators measure, besides the Status."""

    sweep_ms: int | None
    """Since a sweep of the schedule came in; None if there was none yet."""
    scrub_ms: int | None
    """Since a scrub came to its end; None if there was none yet."""
    used_bytes: int
    limit_bytes: int
    """What the memory may grow to: ``maxmemory``, or what the machine has; 0 if it is not told."""
    unwritten: str
    """What Redis cannot write to its disk, as ``unwritten`` tells it."""
    histograms: dict[str, int]
    """As ``Histogram.read`` takes them."""


_figures = load_script("figures")


def figures(keys: Keys, /) -> Command[Figures]:
    """Read the age of the last sweep and scrub, memory and disk, and the histograms."""

    def parse(reply: Raw) -> Figures:
        sweep_ms, scrub_ms, raw_info, *fields = reply
        info = _server_info(raw_info)
        return Figures(
            int(sweep_ms) if sweep_ms else None,
            int(scrub_ms) if scrub_ms else None,
            int(info["used_memory"]),
            int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0)),
            unwritten(info),
            {
                name.decode(errors="replace"): int(number)
                for name, number in pairs(fields).items()
                if _NUMBER.fullmatch(number)  # others may have put more there
            },
        )

    script_keys = (keys.heartbeat, keys.scrubbed, keys.histograms)
    return Command(_figures, script_keys, (), parse, repeatable=True)


def unwritten(info: Mapping[str, str]) -> str:
    """Return what Redis could not write to its disk, for which it takes no changes; "" if nothing.

    A snapshot that failed does that unless ``stop-writes-on-bgsave-error`` is off.
    """
    if info.get("aof_last_write_status", "ok") != "ok":
        return "the append-only file cannot be written"
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return "the last snapshot could not be written"
    return ""


def _server_info(raw: bytes) -> dict[str, str]:
    """Return what ``INFO`` says, by name."""
    lines = (line.partition(":") for line in raw.decode().splitlines())
    return {name: value for name, _, value in lines}


def _used_memory(note: bytes, now_ms: int) -> UsedMemory | None:
    found = re.fullmatch(rb"(\d{1,15}) (\d{1,18})", note)
    return UsedMemory(now_ms - int(found[1]), int(found[2])) if found else None
