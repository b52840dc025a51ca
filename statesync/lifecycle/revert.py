"""Owns the revert: Redis went back in time, so a group is set to its rows, and its play recorded.

PostgreSQL is right, for it is whole: every trade in it, every durable change, every deletion. Only
all that is tied goes back together: one side alone would lose an item, or double it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.durable.conflicts import LostState
from statesync.durable.cores import Core
from statesync.durable.results import Unknown
from statesync.errors import CorruptState, LeaseLost, StatesyncError
from statesync.hot.commands.revert import Dropped, DroppedHash
from statesync.hot.commands.revert import Revert as RevertedGroup
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.failpoints import failpoint
from statesync.lifecycle.plans import Loaded, Plan, Planner, stage_logs
from statesync.lifecycle.snapshots import Snapshot
from statesync.state.fields import MAX_VERSION, listed
from statesync.state.outcomes import BackupOutcome
from statesync.state.references import SessionRef
from statesync.state.sessions import read_participants

__all__ = ["members_to_join", "record_dropped", "revert"]

log = logging.getLogger(__name__)

_REASON = (
    "PostgreSQL held another history, which is live now: Redis went back in time, or the id was "
    "made twice"
)
_DIGITS = len(str(MAX_VERSION)) + 1
_NO_TEXT = str.maketrans({"\0": "\\x00"})
"""PostgreSQL stores no NUL."""


def members_to_join(
    engine: Engine, snapshots: Sequence[Snapshot], registered: Iterable[str]
) -> list[set[str]]:
    """Return of each snapshot the members that its rows bind to it and that it does not hold.

    Whoever shares a session in PostgreSQL has to be set to the same instant.
    """
    char_ids = [char_id for snapshot in snapshots for char_id in snapshot.characters]
    with database.transaction(engine) as connection:
        refs: dict[int, set[SessionRef]] = {}
        for char_id, session_type, session_id in durable.memberships.current(connection, char_ids):
            if session_type in registered:
                refs.setdefault(char_id, set()).add(SessionRef(session_type, str(session_id)))
        ids = {UUID(ref.id) for found in refs.values() for ref in found}
        ids |= {session_id for snapshot in snapshots for session_id in _session_ids(snapshot)}
        members_of = durable.memberships.members(connection, ids)
    joining = []
    for snapshot in snapshots:
        bound = {ref for char_id in snapshot.characters for ref in refs.get(char_id, ())}
        session_ids = {*(UUID(ref.id) for ref in bound), *_session_ids(snapshot)}
        participants = {str(i) for session_id in session_ids for i in members_of[session_id]}
        names = {ref.member for ref in bound} | participants
        joining.append(names - snapshot.raw.members())
    return joining


def revert(
    hot: HotStore, engine: Engine, planner: Planner, snapshots: Sequence[Snapshot]
) -> Iterator[tuple[Snapshot, dict[int, int | None] | StatesyncError | None]]:
    """Set groups to their rows, each in one step under its claims, and record what was live.

    Gives for each the versions of its characters now, None of those that PostgreSQL does not have;
    or None if it has changed meanwhile; or LeaseLost; or CorruptState if a row cannot be restored.
    Raises ServerUnavailable, DatabaseWentBack among them.
    """
    for snapshot in snapshots:
        log.warning(
            "PostgreSQL holds another history of characters %s: they are set to it, and what was "
            "live is recorded",
            listed(sorted(snapshot.raw.claims)),
            extra={"char_ids": [*snapshot.raw.claims], "outcome": BackupOutcome.CONFLICT},
        )
        yield snapshot, _revert_one(hot, planner, snapshot)
        failpoint("reverted")
    record_dropped(hot, engine)


def _revert_one(
    hot: HotStore, planner: Planner, snapshot: Snapshot
) -> dict[int, int | None] | StatesyncError | None:
    failed: list[CorruptState] = []
    try:
        loaded = planner.load(snapshot.raw.claims, session_ids=_session_ids(snapshot))
    except database.Rejected as error:
        if error.locked:
            snapshot.locked = f"its rows are locked: {error}"
            return None
        return CorruptState(snapshot.anchor, "", str(error))
    plans = planner.plan_all(loaded, lambda _, error: failed.append(error))
    if failed:
        return failed[0]
    for reply in hot.run_many(stage_logs(hot.commands, plans.values())):
        unwrap(reply)
    group = RevertedGroup(
        snapshot.raw.members(),
        {char_id: claim.token for char_id, claim in snapshot.raw.claims.items()},
        [plan.item for plan in plans.values()],
        _row_versions(snapshot, loaded),
        _dropped(snapshot),
        is_recovering=snapshot.raw.head.is_recovering,
    )
    try:
        if not hot.revert(group):
            return None
    except (LeaseLost, CorruptState) as error:
        return error
    return {char_id: _version(plans, char_id) for char_id in snapshot.raw.claims}


def _session_ids(snapshot: Snapshot) -> list[UUID]:
    return [UUID(ref.id) for ref in snapshot.raw.sessions]


def _row_versions(snapshot: Snapshot, loaded: Loaded) -> dict[str, int]:
    """Return the versions of rows by the names of members."""
    rows = {str(i): row.version for i, row in loaded.rows.items() if isinstance(row, Core)}
    refs = {UUID(ref.id): ref.member for ref in snapshot.raw.sessions}
    return rows | {refs[i]: version for i, version in loaded.open_versions.items()}


def _version(plans: Mapping[int, Plan], char_id: int) -> int | None:
    return plans[char_id].item.version if char_id in plans else None


def _dropped(snapshot: Snapshot) -> Dropped:
    """Return what is kept of a group until it is recorded."""
    sessions = [ref.member for ref in snapshot.raw.sessions]
    return Dropped(_divergence(snapshot), (*map(str, snapshot.raw.cores), *sessions))


def _divergence(snapshot: Snapshot) -> int:
    """Return what names a group that is set back: the seal that Redis did not know.

    It is the same at each try. A row without a seal gives its version, below zero.
    """
    assert snapshot.result  # noqa: S101
    results = [*snapshot.result.characters.values(), *snapshot.result.sessions.values()]
    unknown = [result for result in results if isinstance(result, Unknown)]
    return min(-row.version if row.seal is None else row.seal for row in unknown)


def record_dropped(hot: HotStore, engine: Engine) -> int:
    """Record in PostgreSQL what reverts took out of play, also those of workers that died.

    Returns how many cores and sessions that were. Safe to run twice and side by side.
    """
    recorded = 0
    for dropped_id, dropped in hot.list_dropped().items():
        found = hot.read_dropped(dropped_id, dropped.members)
        lost = [_lost_state(dropped, name, one) for name, one in found.items()]
        try:
            with database.transaction(engine) as connection:
                durable.conflicts.record(connection, lost)
        except database.Rejected as error:
            log.warning(
                "what was live of characters %s is not recorded yet: %s",
                listed(dropped.char_ids),
                error,
                extra={"char_ids": dropped.char_ids, "error": str(error)},
            )
            continue
        failpoint("recorded")
        hot.discard_dropped(dropped_id, dropped.members)
        recorded += len(lost)
    return recorded


def _lost_state(dropped: Dropped, name: str, found: DroppedHash) -> LostState:
    fields = {_text(field): _text(value) for field, value in found.fields.items()}
    text = fields.get("version", "")
    version = int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else 0
    ref = SessionRef.from_member(name)
    if ref is None:
        state: dict[str, Any] = {"core": fields}
        char_id, session_id = int(name), None
    else:
        state = {"session_type": ref.session_type, "session": fields}
        state["log"] = [_text(entry) for entry in found.log]
        char_id, session_id = _participant(dropped, ref, found), UUID(ref.id)
    return LostState(char_id, session_id, version, dropped.divergence, _REASON, state)


def _participant(dropped: Dropped, ref: SessionRef, found: DroppedHash) -> int:
    """Return the first participant of a session; of its group, if it names none that is in it."""
    first = min(dropped.char_ids)
    try:
        named = read_participants(ref.label, first, found.fields.get(b"participants", b""))
    except CorruptState:
        return first
    return min({*named} & {*dropped.char_ids}, default=first)


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace").translate(_NO_TEXT)
