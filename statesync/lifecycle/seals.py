"""Owns what is done when a character has too many seals: its saves ended without an answer.

No further snapshot is taken until one transaction has put the newest of the seals into the row as
it is. After that every commit that is still on its way is refused: its snapshot did not know that
seal, or has it as its own, under another version.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Engine

from statesync import durable
from statesync.durable import database, tables
from statesync.errors import CorruptState
from statesync.hot.commands.claims import Claim
from statesync.hot.members import Members
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.pending import Pending
from statesync.state.seals import Seals

__all__ = ["make_room"]

_NOT_OURS = "what statesync:seals holds of it was not written by statesync, and leaves no room"
_NO_ROW = "too many saves of the new character ended without an answer from PostgreSQL"


def make_room(
    hot: HotStore, engine: Engine, pending: Pending, claim: Claim, members: Members
) -> None:
    """Cut the seals of a group to one, so that its next snapshot can be taken.

    Takes over the claims on its characters, so that nobody else withdraws a seal meanwhile.
    Quarantines a group of which a character has no row: the insert may still come. So it does if
    this was done before, since what fills an entry then is no seal.
    """
    if members.names in pending.had_room:
        pending.quarantine(members.characters, CorruptState(claim.char_id, "", _NOT_OURS))
        return
    pending.had_room.add(members.names)
    ids = [*map(str, members.characters), *(ref.id for ref in members.sessions)]
    loaded = _entries(hot, ids)
    others = [i for i in members.characters if i in loaded and i != claim.char_id]
    replies = hot.run_many([hot.commands.claim(i, lease_us=pending.lease_us) for i in others])
    pending |= {
        char_id: unwrap(reply).claim for char_id, reply in zip(others, replies, strict=True)
    }
    entries = _entries(hot, ids)  # again: under the claims nothing is added
    sealed = {member: seals for member, words in entries.items() if (seals := words.numbers)}
    with database.transaction(engine) as connection:
        characters = {i: seals for i, seals in sealed.items() if isinstance(i, int)}
        without_row = durable.heads.reseal(connection, tables.characters, characters)
        sessions = {i: seals for i, seals in sealed.items() if isinstance(i, UUID)}
        durable.heads.reseal(connection, tables.sessions, sessions)
    in_doubt = [i for i in without_row if entries[i].is_full]
    if in_doubt:
        pending.quarantine(members.characters, CorruptState(min(in_doubt), "", _NO_ROW))
        return
    hot.cut_seals(claim, {str(member): seals[-1] for member, seals in sealed.items()})


def _entries(hot: HotStore, ids: list[str]) -> dict[int | UUID, Seals]:
    found = hot.read_seals(ids)
    return {
        int(i) if i.isdigit() else UUID(i): seals
        for i, seals in found.items()
        if seals.words is not None
    }
