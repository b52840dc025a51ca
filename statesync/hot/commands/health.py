"""Owns what tells whether Redis is set up well, and whether the schedule works. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from statesync.hot.command import Command, Raw, load_script
from statesync.hot.keys import Keys

__all__ = ["Examined", "UsedMemory", "examine", "heartbeat"]

_heartbeat = load_script("heartbeat")


def heartbeat(keys: Keys, /) -> Command[None]:
    """Note that the schedule works: a sweep that it sent has arrived."""
    # Repeatable: the later time is as true.
    return Command(_heartbeat, (keys.heartbeat,), (), lambda _: None, repeatable=True)


_examine = load_script("examine")


class UsedMemory(NamedTuple):
    """How much memory Redis used some time ago."""

    age_ms: int
    used_bytes: int


class Examined(NamedTuple):
    """How Redis is set up."""

    info: dict[str, str]
    """What ``INFO`` says."""
    now_us: int
    heartbeat_ms: int | None
    """Since a sweep of the schedule came in; None if there was none yet."""
    before: UsedMemory | None
    """As the sweeps note it twice a day; None if there was none yet."""
    expiring: list[int]
    """Of the characters asked for, those whose core would expire."""


def examine(keys: Keys, char_ids: Sequence[int], /) -> Command[Examined]:
    """Read how Redis is set up, and which of some cores would expire."""

    def parse(reply: Raw) -> Examined:
        raw_info, now_us, heartbeat_ms, raw_note, *all_expire = reply
        lines = (line.partition(":") for line in raw_info.decode().splitlines())
        info = {name: value for name, _, value in lines}
        expiring = [i for i, expires in zip(char_ids, all_expire, strict=True) if expires]
        heartbeat = int(heartbeat_ms) if heartbeat_ms else None
        before = _used_memory(raw_note, int(now_us) // 1000)
        return Examined(info, int(now_us), heartbeat, before, expiring)

    script_keys = (keys.heartbeat, keys.servers, *map(keys.core, char_ids))
    return Command(_examine, script_keys, (), parse, repeatable=True)


def _used_memory(note: bytes, now_ms: int) -> UsedMemory | None:
    found = re.fullmatch(rb"(\d{1,15}) (\d{1,18})", note)
    return UsedMemory(now_ms - int(found[1]), int(found[2])) if found else None
