"""Acknowledgements as tests say them: core by core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from statesync.hot.commands.acknowledge import GroupAck, SessionAck
from statesync.hot.commands.claims import Claim
from statesync.hot.store import HotStore

if TYPE_CHECKING:
    from tests.conftest import Driver


class CoreAck(NamedTuple):
    """One core; both versions are 0 if nothing of it was saved."""

    claim: Claim
    snapshot_version: int = 0
    durable_version: int = 0
    seal: int | None = None
    """The row's."""


def group_ack(
    at_ms: int,
    cores: Sequence[CoreAck],
    sessions: Sequence[SessionAck] = (),
    ties: Mapping[str, Mapping[str, str]] | None = None,
    *,
    seal: int = 0,
) -> GroupAck:
    """Return what acknowledges a group."""
    return GroupAck(
        at_ms,
        seal,
        [core.claim for core in cores],
        [core.snapshot_version for core in cores],
        [core.durable_version for core in cores],
        {place: core.seal for place, core in enumerate(cores) if core.seal != seal},
        sessions=sessions,
        ties=ties or {},
    )


def acknowledge_group(
    store: Driver | HotStore,
    claim: Claim,
    *,
    snapshot_version: int,
    durable_version: int,
    at_ms: int = 0,
    others: Sequence[CoreAck] = (),
    sessions: Sequence[SessionAck] = (),
    ties: Mapping[str, Mapping[str, str]] | None = None,
    seal: int,
) -> bool:
    """Acknowledge a group; returns whether the claim was still ours."""
    first = CoreAck(claim, snapshot_version, durable_version, seal)
    ack = group_ack(at_ms, [first, *others], sessions, ties, seal=seal)
    return 0 not in store.acknowledge_many([ack])
