"""Owns what becomes of groups whose rows are of another history than Redis' own.

If our claims have passed on, another worker was faster. If they still hold, one of the servers has
gone back in time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.durable.fence import Head, RowHead, Verdict, judge
from statesync.durable.results import CharacterResult, HeldBack, Unknown
from statesync.errors import CorruptState, DatabaseWentBack, LeaseLost
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.pending import Pending
from statesync.lifecycle.plans import Planner
from statesync.lifecycle.revert import members_to_join, revert
from statesync.lifecycle.servers import (
    count_sweep,
    note_postgresql_went_back,
    note_redis_went_back,
)
from statesync.lifecycle.snapshots import GroupResult, Snapshot
from statesync.sessions.base import SessionOrchestrator
from statesync.state.outcomes import BackupOutcome
from statesync.state.seals import CREATED

__all__ = ["Lost"]


def _result(snapshot: Snapshot, char_id: int, row: RowHead | None) -> CharacterResult:
    """Return what the fence says of a core that cannot be decoded."""
    core, seals = snapshot.characters[char_id], snapshot.seals[char_id]
    verdict = judge(Head(core.version, core.saved_version, seals), row)
    if row and verdict is Verdict.UNKNOWN:
        return Unknown(row.version, row.valid_seal, is_deleted=row.is_ended)
    return HeldBack()


_BOTH_WENT_BACK = (
    "both servers went back in time: what Redis holds and what PostgreSQL holds are of different "
    "histories, and neither is whole"
)


def _shows_loss(snapshot: Snapshot) -> bool:
    """Return whether a group shows that Redis went back.

    It does not if an id was made twice, a writer has put an old hash under it, or somebody has
    deleted a row that Redis knows.
    """
    assert snapshot.result  # noqa: S101
    for char_id, found in snapshot.result.characters.items():
        seals = snapshot.seals[char_id]
        if not isinstance(found, Unknown) or seals.has(CREATED) or seals.is_bare:
            continue
        if not found.is_deleted or not seals.knows(found.seal):
            return True
    return any(
        isinstance(found, Unknown) and not snapshot.seals[session_id].is_bare
        for session_id, found in snapshot.result.sessions.items()
    )


class Lost:
    """Settles refused groups whose rows are of another history; safe to share by threads."""

    def __init__(
        self,
        hot: HotStore,
        engine: Engine,
        types: Mapping[str, SessionOrchestrator],
        planner: Planner,
    ) -> None:
        self._hot = hot
        self._engine = engine
        self._types = types
        self._planner = planner

    def settle(self, refused: Sequence[Snapshot], pending: Pending) -> dict[int, frozenset[str]]:
        """Set lost groups to their rows and report them; those that others hold are left to them.

        Returns the members of groups that have to be seen together with more before that, by
        character. A group on which both servers went back is marked ``corrupt``. Raises
        DatabaseWentBack if PostgreSQL did.
        """
        ours = [item for item in refused if self._is_lost(item) and self._is_ours(item, pending)]
        ours = [item for item in ours if not self._is_lost_on_both(item)]
        if not ours or not self._ask_servers(ours):
            return {}
        joining: dict[int, frozenset[str]] = {}
        whole = []
        for snapshot, names in zip(
            ours, members_to_join(self._engine, ours, self._types), strict=True
        ):
            if names:
                joining |= dict.fromkeys(snapshot.raw.claims, snapshot.raw.members() | names)
            else:
                whole.append(snapshot)
        self._revert(whole, pending)
        return joining

    def look_at_corrupt(self, snapshots: Sequence[Snapshot]) -> None:
        """Take corrupt groups whose rows are of another history for refused: these rows are right.

        What cannot be decoded is recorded as it is. The other corrupt groups stay what they are.
        """
        corrupt = [snapshot for snapshot in snapshots if snapshot.corrupt]
        if not corrupt:
            return
        char_ids = [char_id for snapshot in corrupt for char_id in snapshot.characters]
        with database.transaction(self._engine) as connection:
            rows = durable.heads.of_characters(connection, char_ids)
        for snapshot in corrupt:
            results = {i: _result(snapshot, i, rows.get(i)) for i in snapshot.characters}
            if any(isinstance(result, Unknown) for result in results.values()):
                snapshot.corrupt = None
                snapshot.result = GroupResult(saved=False, characters=results, sessions={})

    def _is_lost(self, snapshot: Snapshot) -> bool:
        """Return whether Redis has forgotten the history of a group's rows."""
        if snapshot.corrupt:
            return False
        if snapshot.shows_older_postgresql and not (
            snapshot.is_lost
            and (snapshot.raw.head.is_recovering or not self._not_set_aside(snapshot))
        ):
            note_postgresql_went_back(self._hot, self._engine, snapshot.characters)
            raise DatabaseWentBack
        return snapshot.is_lost

    def _is_lost_on_both(self, snapshot: Snapshot) -> bool:
        """Return whether neither side of a group is whole, and mark it ``corrupt`` then.

        Rows that Redis does not know while PostgreSQL is recovered are of that recovery, which
        Redis has forgotten: other rows may not be saved again yet.
        """
        is_recovering = snapshot.raw.head.is_recovering and _shows_loss(snapshot)
        if not (snapshot.shows_older_postgresql or is_recovering):
            return False
        snapshot.corrupt = CorruptState(snapshot.anchor, "", _BOTH_WENT_BACK)
        if count := self._not_set_aside(snapshot):
            with suppress(DatabaseWentBack):  # which is known: it is being recovered
                note_redis_went_back(self._hot, self._engine)
            self._add_costs(quarantined=count)
        return True

    def _not_set_aside(self, snapshot: Snapshot) -> int:
        """Return how many characters of a group are not in quarantine."""
        commands = [self._hot.commands.sync_state(i) for i in snapshot.characters]
        return sum(unwrap(state).quarantine is None for state in self._hot.run_many(commands))

    def _add_costs(self, **counts: int) -> None:
        """Put on record what a loss has cost."""
        with database.transaction(self._engine) as connection:
            durable.losses.add_costs(connection, self._hot.keys.prefix, **counts)

    def _ask_servers(self, lost: Sequence[Snapshot]) -> bool:
        """Find out, before anything is reverted, whether PostgreSQL is to be recovered first.

        Redis may have forgotten that; and a core from before seals cannot tell that PostgreSQL went
        back. Returns False if the servers cannot be asked now; a later backup goes on. Raises
        DatabaseWentBack.
        """
        if all(snapshot.raw.head.is_recovering for snapshot in lost):
            return True
        sweeps = count_sweep(self._hot, self._engine)
        if self._hot.status().recovering:
            raise DatabaseWentBack
        return sweeps is not None

    def _is_ours(self, snapshot: Snapshot, pending: Pending) -> bool:
        """Return whether all claims on a group are ours; report those that another has taken."""
        assert snapshot.result  # noqa: S101
        char_ids = list(snapshot.raw.claims)
        states = self._hot.run_many([self._hot.commands.sync_state(i) for i in char_ids])
        taken = [
            char_id
            for char_id, state in zip(char_ids, states, strict=True)
            if char_id not in pending or unwrap(state).token != pending[char_id].token
        ]
        for char_id in taken:
            found = snapshot.result.characters[char_id]
            if isinstance(found, Unknown) and found.is_deleted:
                pending.report(char_id, BackupOutcome.DELETED)
            elif isinstance(found, Unknown):
                pending.report(char_id, BackupOutcome.STALE, found.version)
            else:
                pending.report(char_id, BackupOutcome.SUPERSEDED)
        return not taken

    def _revert(self, snapshots: Sequence[Snapshot], pending: Pending) -> None:
        """Set groups to their rows and report their characters."""
        losses = [snapshot for snapshot in snapshots if _shows_loss(snapshot)]
        if losses:
            note_redis_went_back(self._hot, self._engine)
        for snapshot, result in revert(self._hot, self._engine, self._planner, snapshots):
            if isinstance(result, LeaseLost):
                self._is_ours(snapshot, pending)
            elif isinstance(result, CorruptState):
                snapshot.corrupt = result
            elif isinstance(result, dict):
                for char_id, version in result.items():
                    pending.report(char_id, BackupOutcome.CONFLICT, version)
                if snapshot in losses or snapshot.raw.head.is_settling:
                    self._add_costs(reverted=len(result))
