"""Owns what a sweep and a backup send to Redis about claims: the right to save a character."""

from __future__ import annotations

from typing import NamedTuple

from statesync.hot.command import Command, Raw, load_script
from statesync.hot.keys import Keys
from statesync.state.fields import check_char_id

__all__ = [
    "Claim",
    "ClaimStep",
    "Claimed",
    "claim",
    "claim_dirty",
    "quarantine",
    "release",
    "requeue",
]


class Claim(NamedTuple):
    """A lease on one character; ``token`` is its deadline in µs of Redis' clock."""

    char_id: int
    token: int


class Claimed(NamedTuple):
    """A new claim, and what it found."""

    claim: Claim
    was_dirty: bool
    """Whether the character was dirty, or claimed as a dirty one."""


_claim = load_script("claim")


def claim(keys: Keys, char_id: int, /, *, lease_us: int) -> Command[Claimed]:
    """Claim one character, dirty or not; an older claim on it is superseded."""

    def parse(reply: Raw) -> Claimed:
        token, was_dirty = reply
        return Claimed(Claim(char_id, int(token)), bool(was_dirty))

    script_keys = (keys.dirty, keys.claimed, keys.since)
    return Command(_claim, script_keys, (check_char_id(char_id), lease_us), parse, char_id)


_claim_dirty = load_script("claim_dirty")


class ClaimStep(NamedTuple):
    """One step of a pass over the dirty set."""

    claims: list[Claim]
    before: int
    """How many passes were completed before it."""
    passes: int | None
    """How many are completed now; None if no more claims may be in flight."""
    fresh: bool
    """It was the first one of its pass."""

    @property
    def last(self) -> int:
        """The pass that meets the last of those that were dirty at this step: this one if it began
        here, else the next."""
        return self.before + (1 if self.fresh else 2)


def claim_dirty(
    keys: Keys, /, *, lease_us: int, max_in_flight: int, count: int
) -> Command[ClaimStep]:
    """Claim some dirty characters, looking at about ``count``; all sweeps share one pass."""

    def parse(reply: Raw) -> ClaimStep:
        before, cursor, passes, *rest = reply
        claims = [Claim(int(i), int(t)) for i, t in zip(rest[::2], rest[1::2], strict=True)]
        completed = None if passes == b"full" else int(passes)
        return ClaimStep(claims, int(before), completed, cursor == b"0")

    script_keys = (keys.dirty, keys.claimed, keys.since, keys.quarantine, keys.sweep)
    return Command(_claim_dirty, script_keys, (lease_us, max_in_flight, count), parse)


_requeue = load_script("requeue")


def requeue(keys: Keys, limit: int, /, *, include_unexpired: bool = False) -> Command[int]:
    """Put claimed characters back into the dirty set, up to ``limit``; returns how many.

    Takes those whose lease has ended; with ``include_unexpired`` any: its worker then finds the
    claim superseded.
    """
    return Command(_requeue, (keys.dirty, keys.claimed), (limit, int(include_unexpired)), int)


_release = load_script("release")


def release(keys: Keys, claim: Claim, /) -> Command[bool]:
    """Give a claim back: the character is dirty again. False if the claim was not ours."""
    return Command(_release, (keys.dirty, keys.claimed), claim, bool, claim.char_id)


_quarantine = load_script("quarantine")


def quarantine(keys: Keys, claim: Claim, /, *, error: str, field: str) -> Command[bool]:
    """Set a claimed character aside; its data stays. False if the claim was not ours."""
    args = (*claim, error[:1000], field[:200])
    return Command(_quarantine, (keys.claimed, keys.quarantine), args, bool, claim.char_id)
