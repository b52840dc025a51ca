"""Owns what a save does about rows that it may not overwrite although they are of our history.

A writer has put a number back, or has written to a character that was not loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine

from statesync.durable.results import Behind, Incomplete
from statesync.hot.command import Command
from statesync.hot.commands.claims import Claim
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.servers import count_sweep
from statesync.lifecycle.snapshots import Snapshot
from statesync.state.characters import write_character

__all__ = ["reconcile"]


def reconcile(
    hot: HotStore, engine: Engine, refused: Sequence[Snapshot], pending: Mapping[int, Claim]
) -> None:
    """Bring the cores and sessions of refused snapshots up to their rows, under our claims.

    Versions rise to the rows', and cores get the fields that they lack. A claim that is lost ends
    it: another worker saves the character. Before what a bare writer has made is laid over a row,
    the servers are asked whether one went back: then it may be of a history that is forgotten. If
    they cannot be asked now, it waits for a later backup.
    """
    stumps = [snapshot for snapshot in refused if _has_stump(snapshot)]
    sweeps = count_sweep(hot, engine) if stumps else None
    waiting = stumps if sweeps is None else []
    now = [snapshot for snapshot in refused if snapshot not in waiting]
    commands = [c for snapshot in now for c in _commands(hot, snapshot, pending, sweeps)]
    for reply in hot.run_many(commands):
        unwrap(reply)


def _has_stump(snapshot: Snapshot) -> bool:
    decisions = snapshot.result.characters.values() if snapshot.result else ()
    return any(isinstance(one, Incomplete) and one.is_stump for one in decisions)


def _commands(
    hot: HotStore, snapshot: Snapshot, pending: Mapping[int, Claim], sweeps: int | None
) -> Iterable[Command[Any]]:
    if snapshot.result is None or snapshot.is_lost:
        return
    seal = snapshot.raw.seal
    for char_id, decision in snapshot.result.characters.items():
        claim = pending.get(char_id)
        if claim and isinstance(decision, Behind):
            yield hot.commands.reconcile(claim, seal=seal, version=decision.version)
        elif claim and isinstance(decision, Incomplete):
            row = decision.row
            yield hot.commands.reconcile(
                claim,
                seal=seal,
                version=row.version,
                missing=write_character(row.core()),
                row_seal=row.seal,
                stump_sweeps=sweeps if decision.is_stump else None,
            )
    anchor = pending.get(snapshot.anchor)
    for session_id, found in snapshot.result.sessions.items():
        if anchor and isinstance(found, Behind):
            ref = snapshot.sessions[session_id].ref
            yield hot.commands.reconcile_session(anchor, ref, seal=seal, version=found.version)
