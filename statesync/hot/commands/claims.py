"""Owns what a sweep and a backup send to Redis about claims: who may save which character."""

from __future__ import annotations

from typing import NamedTuple

from statesync.hot.command import Command, Raw, load_script
from statesync.hot.keys import Keys
from statesync.state.fields import check_char_id

__all__ = ["Claim", "ClaimStep", "claim", "claim_dirty", "quarantine", "release", "requeue"]


class Claim(NamedTuple):
    """A lease on one character; ``token`` is its deadline in µs of Redis' clock."""

    char_id: int
    token: int


_claim = load_script("claim")


def claim(keys: Keys, char_id: int, /, *, lease_us: int) -> Command[tuple[Claim, bool]]:
    """Claim one character, dirty or not; also tells whether it was dirty or claimed."""

    def parse(reply: Raw) -> tuple[Claim, bool]:
        return Claim(char_id, int(reply[0])), bool(reply[1])

    check_char_id(char_id)
    return Command(
        _claim, (keys.dirty, keys.claimed, keys.since), (char_id, lease_us), parse, char_id
    )


_claim_dirty = load_script("claim_dirty")


class ClaimStep(NamedTuple):
    """One step of a pass over the dirty set."""

    claims: list[Claim]
    before: int
    """How many passes had been completed before it."""
    passes: int | None
    """How many have been now; None where no more claims may be in flight."""
    fresh: bool
    """It was the first one of its pass."""

    @property
    def last(self) -> int:
        """The pass that will have met everybody who was dirty at this step: this one if it began
        here, else the next."""
        return self.before + (1 if self.fresh else 2)


def claim_dirty(
    keys: Keys, /, *, lease_us: int, max_in_flight: int, count: int
) -> Command[ClaimStep]:
    """Claim some dirty characters, looking at about ``count``; all sweeps share one pass."""

    def parse(reply: Raw) -> ClaimStep:
        before, cursor, passes, *rest = reply
        claims = [Claim(int(i), int(t)) for i, t in zip(rest[::2], rest[1::2], strict=True)]
        return ClaimStep(
            claims, int(before), None if passes == b"full" else int(passes), cursor == b"0"
        )

    return Command(
        _claim_dirty,
        (keys.dirty, keys.claimed, keys.since, keys.quarantine, keys.sweep),
        (lease_us, max_in_flight, count),
        parse,
    )


_requeue = load_script("requeue")


def requeue(keys: Keys, limit: int, /, *, include_unexpired: bool = False) -> Command[int]:
    """Put claimed characters back into the dirty set, up to ``limit``; returns how many.

    Takes those whose lease has ended; with ``include_unexpired`` any: their worker then finds its
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
