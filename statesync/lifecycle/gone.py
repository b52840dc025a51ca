"""Owns what becomes of a bare write to a character whose row is gone from PostgreSQL.

Its tombstone says that it was saved and has left; so PostgreSQL went back to before its first save.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database
from statesync.errors import CorruptState
from statesync.hot.store import HotStore
from statesync.lifecycle.snapshots import Snapshot
from statesync.state.seals import CREATED

__all__ = ["look_at_gone"]

_REASON = (
    "the character had left Redis, and PostgreSQL has no row of it any more, since it went back in "
    "time: what was written since is not the whole character"
)


def look_at_gone(hot: HotStore, engine: Engine, snapshots: Sequence[Snapshot]) -> None:
    """Mark groups as ``corrupt`` in which a bare write would take the place of a lost character.

    ``create`` says that it makes a new one, so that is none of these.
    """
    bare = {
        char_id: snapshot
        for snapshot in snapshots
        for char_id, character in snapshot.group.characters.items()
        if character.saved_version is None and not snapshot.group.seals[char_id].has(CREATED)
    }
    left = hot.heads([], evicted=[*bare]).evicted if bare else {}
    if not left:
        return
    char_ids = [char_id for char_id in bare if char_id in left]
    with database.transaction(engine) as connection:
        rows = durable.heads.of_characters(connection, char_ids)
    for char_id in char_ids:
        if char_id not in rows:
            bare[char_id].corrupt = CorruptState(char_id, "", _REASON)
