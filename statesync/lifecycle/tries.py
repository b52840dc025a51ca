"""Owns how the snapshots of groups are tried, until all of their members are known.

Each is decoded as it comes in, while Redis reads the next ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from statesync.errors import StatesyncError
from statesync.hot.command import Command, packed
from statesync.hot.commands.backup import (
    SNAPSHOT_MEMBERS,
    Later,
    NeedsKeys,
    Plain,
    RawSnapshot,
    SealsFull,
    TriedSnapshot,
)
from statesync.hot.commands.claims import Claim
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.pending import Pending
from statesync.lifecycle.plain import PlainSnapshot
from statesync.lifecycle.snapshots import Snapshot, decode

__all__ = ["merge", "try_snapshots"]

_Tried = PlainSnapshot | Snapshot | RawSnapshot | Later | SealsFull | StatesyncError


def try_snapshots(
    hot: HotStore, pending: Pending, known: dict[int, frozenset[str]], char_ids: Iterable[int]
) -> Iterator[tuple[Claim, _Tried]]:
    """Give the snapshot of each group, or why there is none, with a claim on the group.

    A RawSnapshot is one of a character whose core is gone.

    Only the script sees all members of a group, so each try may add members that the next try has
    to know; ``known`` has them, by character. Of several claims that turn out to be on one group,
    one goes on for all.
    """
    untried = {i: known.get(i, frozenset()) for i in char_ids}
    while untried:  # ends with the whole group, or with the lease
        untried = {i: names for i, names in untried.items() if i in pending}
        merged = merge(untried) if any(untried.values()) else untried
        tries = [(pending[i], names) for i, names in merged.items()]
        parts = packed(tries, lambda one_try: _work(one_try[1]), SNAPSHOT_MEMBERS)
        replies = hot.run_many([_try(hot, part, pending.lease_us) for part in parts])
        untried = {}
        results = (result for reply in replies for result in unwrap(reply))
        for (claim, _), result in zip(tries, results, strict=True):
            if isinstance(result, NeedsKeys):
                known[claim.char_id] = untried[claim.char_id] = result.members
            else:
                yield claim, result


def _try(
    hot: HotStore, part: Sequence[tuple[Claim, Collection[str]]], lease_us: int
) -> Command[list[_Tried | NeedsKeys]]:
    def decoded(results: Sequence[TriedSnapshot]) -> list[_Tried | NeedsKeys]:
        return [_decoded(claim, one) for (claim, _), one in zip(part, results, strict=True)]

    return hot.commands.try_snapshots(part, lease_us=lease_us).then(decoded)


def _decoded(claim: Claim, result: TriedSnapshot) -> _Tried | NeedsKeys:
    if isinstance(result, Plain):
        return PlainSnapshot.of(result)
    if isinstance(result, RawSnapshot) and result.cores[claim.char_id]:
        return decode(claim.char_id, result)
    return result


def _work(names: Collection[str]) -> int:
    """Return how much work a snapshot is, beside that of a character that is alone."""
    return len(names) * 3 // 2 or 1


def merge(known: Mapping[int, frozenset[str]]) -> dict[int, frozenset[str]]:
    """Join the known members of each character's group; the first character of a group has all."""
    first_of: dict[str, int] = {}
    merged: dict[int, frozenset[str]] = {}
    for char_id, names in known.items():
        members = names | {str(char_id)}
        overlapping = {first_of[name] for name in members if name in first_of}
        first = min(overlapping, default=char_id)
        members = members.union(*(merged.pop(other) for other in overlapping))
        merged[first] = members
        first_of |= dict.fromkeys(members, first)
    return merged
