"""Owns what acknowledges a group that PostgreSQL holds: claims, versions and seals, in columns."""

from __future__ import annotations

from collections.abc import Collection

from statesync.durable.results import Saved
from statesync.hot.commands.acknowledge import GroupAck, SessionAck
from statesync.hot.commands.claims import Claim
from statesync.lifecycle.snapshots import GroupResult, Snapshot

__all__ = ["acknowledgement"]


def acknowledgement(snapshot: Snapshot, result: GroupResult, deleting: Collection[int]) -> GroupAck:
    """Return what acknowledges a group that PostgreSQL holds.

    A character that is deleted keeps its claim, unless it is one of ``deleting``. Of those whose
    claim ends, the anchor comes first: sessions are acknowledged under the first claim.
    """
    raw = snapshot.raw
    saved = {i: one for i, one in result.characters.items() if isinstance(one, Saved)}
    ends = saved.keys() | (raw.claims.keys() & {*deleting})
    order = sorted(raw.cores, key=lambda i: (i not in ends, i != snapshot.anchor))
    rows = [saved.get(i) for i in order]
    return GroupAck(
        raw.at_ms,
        raw.seal,
        [raw.claims[i] if i in ends else Claim(i, 0) for i in order],
        [snapshot.characters[i].row.version if i in saved else 0 for i in order],
        [row.version if row else 0 for row in rows],
        {place: row.seal for place, row in enumerate(rows) if row and row.seal != raw.seal},
        {order.index(i): nonces for i, nonces in raw.nonces.items() if i in saved},
        _sessions(snapshot, result),
        raw.ties,
    )


def _sessions(snapshot: Snapshot, result: GroupResult) -> list[SessionAck]:
    return [
        SessionAck(
            session.session_type,
            session.ref.id,
            session.version,
            saved.version,
            session.closed,
            saved.seal,
        )
        for session_id, session in snapshot.sessions.items()
        if isinstance(saved := result.sessions[session_id], Saved)
    ]
