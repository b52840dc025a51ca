"""Owns what a sweep and a backup send to Redis about claims: the right to save a character."""

from __future__ import annotations

from itertools import repeat
from typing import NamedTuple

from statesync.hot.command import Command, Raw, load_script
from statesync.hot.keys import Keys
from statesync.state.fields import check_char_id

__all__ = [
    "Claim",
    "ClaimStep",
    "Claimed",
    "Requeued",
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
    args = (check_char_id(char_id), lease_us)
    # Repeatable: the second claim supersedes the first.
    return Command(_claim, script_keys, args, parse, char_id, repeatable=True)


_claim_dirty = load_script("claim_dirty")


class ClaimStep(NamedTuple):
    """One step of the pass over the dirty set that all sweeps share."""

    claims: list[Claim]
    goes_on: bool
    """Whether the next step may be due as well."""


def claim_dirty(
    keys: Keys,
    /,
    *,
    lease_us: int,
    max_in_flight: int,
    count: int,
    round_ms: int,
    late_ms: int = 0,
    whole: bool = False,
    goes_on: bool = False,
) -> Command[ClaimStep]:
    """Claim up to ``count`` dirty characters, if the pass over them is due.

    The pass takes ``round_ms``; with ``late_ms``, a step is due only if it is as late. ``whole``
    makes all due that is dirty now, for every sweep, until the pass has met it. A sweep of all that
    ``goes_on`` does so again only if somebody has deleted the pass.
    """

    def parse(reply: Raw) -> ClaimStep:
        goes_on, token, char_ids = reply
        return ClaimStep(
            [*map(Claim, map(int, char_ids.split()), repeat(int(token)))], bool(goes_on)
        )

    script_keys = (keys.dirty, keys.claimed, keys.since, keys.quarantine, keys.sweep)
    args = (lease_us, max_in_flight, count, round_ms, late_ms, 2 * whole if goes_on else int(whole))
    # Repeatable: claims that nobody has heard of end with their lease, sent again or not.
    return Command(_claim_dirty, script_keys, args, parse, repeatable=True)


_requeue = load_script("requeue")


class Requeued(NamedTuple):
    """What became of claims whose lease has ended."""

    dirty: int
    """How many characters are dirty again."""
    clean: list[int]
    """Those without unsaved changes at the claim: it is gone. ``mark_unsaved`` marks them."""


def requeue(keys: Keys, limit: int, /, *, include_unexpired: bool = False) -> Command[Requeued]:
    """End up to ``limit`` claims; those with unsaved changes go back into the dirty set.

    Takes those whose lease has ended; with ``include_unexpired`` any: its worker then finds the
    claim superseded.
    """

    def parse(reply: Raw) -> Requeued:
        dirty, *clean = reply
        return Requeued(dirty, [*map(int, clean)])

    args = (limit, int(include_unexpired))
    # Repeatable: it goes on with the claims that are left. If the reply names clean ones and is
    # lost, a scrub looks at them.
    script_keys = (keys.dirty, keys.claimed, keys.since)
    return Command(_requeue, script_keys, args, parse, repeatable=True)


_release = load_script("release")


def release(keys: Keys, claim: Claim, /) -> Command[bool]:
    """Give a claim back: the character is dirty again if it has unsaved changes.

    False if the claim was not ours.
    """
    script_keys = (keys.dirty, keys.claimed, keys.since)
    # Repeatable: the second time, the token is no longer there.
    return Command(_release, script_keys, claim, bool, claim.char_id, repeatable=True)


_quarantine = load_script("quarantine")


def quarantine(keys: Keys, claim: Claim, /, *, error: str, field: str) -> Command[bool]:
    """Set a claimed character aside; its data stays. False if the claim was not ours."""
    args = (*claim, error[:1000], field[:200])
    script_keys = (keys.claimed, keys.quarantine)
    # Repeatable: the second time, the token is no longer there.
    return Command(_quarantine, script_keys, args, bool, claim.char_id, repeatable=True)
