"""Owns what becomes of a bare write to a character that PostgreSQL has lost saves of.

Its tombstone says at which version it was saved and has left; so PostgreSQL went back if its row is
older, or gone.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.errors import CorruptState, DatabaseWentBack
from statesync.hot.store import HotStore
from statesync.lifecycle.servers import note_postgresql_went_back
from statesync.lifecycle.snapshots import Snapshot
from statesync.state.fields import MAX_VERSION, version_or_none
from statesync.state.seals import CREATED

__all__ = ["look_at_gone"]

_REASON = (
    "the character had left Redis, and PostgreSQL has no row of it any more, since it went back in "
    "time: what was written since is not the whole character"
)


def look_at_gone(hot: HotStore, engine: Engine, snapshots: Sequence[Snapshot]) -> None:
    """Mark groups as ``corrupt`` in which a bare write would take the place of a lost character.

    ``create`` says that it makes a new one, so that is none of these. If the row is only older, the
    bare write waits until the recovery has put on record what is lost. Raises DatabaseWentBack.
    """
    bare = {
        char_id: snapshot
        for snapshot in snapshots
        for char_id, character in snapshot.characters.items()
        if character.saved_version is None and not snapshot.seals[char_id].has(CREATED)
    }
    left = hot.heads([], evicted=[*bare]).evicted if bare else {}
    if not left:
        return
    char_ids = [char_id for char_id in bare if char_id in left]
    with database.transaction(engine) as connection:
        rows = durable.heads.of_characters(connection, char_ids)
    for char_id in char_ids:
        snapshot = bare[char_id]
        if char_id not in rows:
            snapshot.corrupt = CorruptState(char_id, "", _REASON)
        elif rows[char_id].version < (version_or_none(left[char_id]) or 0) < MAX_VERSION:
            if not snapshot.raw.head.is_recovering:
                note_postgresql_went_back(hot, engine, [char_id])
                raise DatabaseWentBack
            snapshot.postpone()
