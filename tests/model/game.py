"""What game code, logins, logouts and deletions do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from tests.model.groups import group, untie
from tests.model.revert import HIGHEST
from tests.model.session import (
    evict,
    is_open,
    is_stale_session,
    restore_session,
    session,
    set_to_row,
)
from tests.model.state import (
    CREATED,
    DELETED,
    Entry,
    Hash,
    State,
    Step,
    added,
    changed,
    marked,
    put,
    set_facts,
    set_redis,
    spend,
)


def game(state: State, wrong: str) -> Iterator[Step]:
    """Yield what may be done to the characters."""
    for i in range(state.size):
        member = state.redis.members[i]
        if member.loaded:
            yield from _play(state, i, member, wrong)
        else:
            yield from _absent(state, i, member, wrong)
        if member.unmarked:
            yield f"bare mark {i}", put(state, i, member._replace(unmarked=False, dirty=True))
        if state.budget.tombstones and member.evicted:
            ended = put(state, i, member._replace(evicted=0))
            yield f"the tombstone of {i} ends", spend(excused(ended), "tombstones")
        if state.budget.evictions and state.reader is None:
            reader = (i, state.postgres.rows)
            yield f"a restore reads row {i}", state._replace(reader=reader)
    if state.reader:
        yield "the restore writes", restore(state, wrong)
        if state.budget.old:  # it knows of no seals
            i, _ = state.reader
            after, seals = restore(state, wrong), state.redis.members[i].seals
            after = put(after, i, after.redis.members[i]._replace(seals=seals))
            yield "an old worker's restore writes", spend(after, "old")
    yield from session(state)
    yield from _deletion(state, wrong)


def excused(state: State) -> State:
    return set_facts(state, excused=True)


def _play(state: State, i: int, member: Hash, wrong: str) -> Iterator[Step]:
    budget, others = state.budget, range(state.size)
    if budget.writes:
        yield f"write {i}", spend(marked(changed(state, i), i), "writes")
    if budget.durable:
        yield f"durable write {i}", spend(_durable(state, i), "durable")
    if budget.bare and not member.unmarked:
        yield f"bare write {i}", spend(changed(state, i, unmarked=True), "bare")
    if budget.copies and state.copy is None:
        copy = (i, member._replace(seals=None, token=0, evicted=0, dirty=False, unmarked=False))
        yield f"a bare writer reads all of {i}", spend(state._replace(copy=copy), "copies")
    if state.copy and state.copy[0] == i:
        yield f"it writes all of {i} back", _write_back(state, i)
    for item, other in product(member.items, others):
        if budget.trades and other != i and state.redis.members[other].loaded:
            yield f"trade {i} -> {other}", spend(trade(state, i, other, item, wrong), "trades")
    if budget.evictions and _may_go(state, i, wrong):
        evicted = evict(state, i)
        if evicted:
            yield f"evict {i}", spend(evicted, "evictions")
            if budget.old:  # it leaves the seals
                stays = evicted.redis.members[i]._replace(seals=member.seals)
                evicted = put(spend(evicted, "evictions"), i, stays)
                yield f"an old worker evicts {i}", spend(evicted, "old")


def _may_go(state: State, i: int, wrong: str) -> bool:
    """Whether a logout may evict: it has just saved the character, and nothing has marked it."""
    member = state.redis.members[i]
    marked = member.dirty and wrong != "evict without looking at the mark"
    saved = member.version == member.saved and not member.token
    if marked or not saved or member.unmarked or member.quarantined:
        return False
    # The save has seen whether PostgreSQL went back; what is evicted before that is listed.
    back = state.redis.recovering or state.facts.postgres_back
    here = [i, state.size] if member.in_session else [i]
    members, rows = state.redis.members, state.postgres.rows
    return not back or all(set(members[j].changes) <= set(rows[j].changes) for j in here)


def _absent(state: State, i: int, member: Hash, wrong: str) -> Iterator[Step]:
    row = state.postgres.rows[i]
    if state.budget.creations:
        used = row.exists
        new = Hash(
            version=1,
            dirty=True,
            loaded=True,
            evicted=member.evicted,
            seals=None if wrong == "no note of a creation" else (CREATED,),
        )
        created = changed(put(state, i, new), i)
        yield f"create {i}", spend(excused(created) if used else created, "creations")
    if state.budget.bare:
        new = Hash(loaded=True, unmarked=True, evicted=member.evicted, seals=member.seals)
        written = changed(put(state, i, new), i)
        written = excused(written) if row.deleted or state.deleting else written
        yield f"bare write {i}", spend(written, "bare")
    if state.copy and state.copy[0] == i:
        there = state.copy[1]._replace(evicted=member.evicted, seals=member.seals)
        yield f"it writes all of {i} back", excused(_write_back(put(state, i, there), i))


def _durable(state: State, i: int) -> State:
    """A change with a receipt; the name of the change is its nonce."""
    nonce = state.clock
    state = marked(changed(state, i), i)
    new = state.redis.members[i]
    state = put(state, i, new._replace(nonces=(*new.nonces, nonce)))
    return set_facts(state, receipts=(*state.facts.receipts, (i, new.version, nonce)))


def _write_back(state: State, i: int) -> State:
    """Put back the numbers and the tie that a bare writer has read; the rest is its affair."""
    assert state.copy
    _, copy = state.copy
    state = changed(state._replace(copy=None), i, unmarked=True)
    new = state.redis.members[i]
    return put(state, i, new._replace(version=copy.version, saved=copy.saved, tie=copy.tie))


def trade(state: State, giver: int, taker: int, item: int, wrong: str) -> State:
    """Move an item: one script changes both characters and ties them."""
    members = state.redis.members
    rest = tuple(other for other in members[giver].items if other != item)
    state = put(state, giver, members[giver]._replace(items=rest))
    more = added(members[taker].items, item)
    state = put(state, taker, members[taker]._replace(items=more))
    state = marked(changed(state, giver, taker), giver, taker)
    return state if wrong == "no ties" else tie_together(state, (giver, taker), wrong)


def tie_together(state: State, who: tuple[int, ...], wrong: str) -> State:
    met = {state.redis.members[i].tie for i in who} - {0}
    tie = min(met, default=state.clock)
    entries = set(state.redis.entries)
    for entry in state.redis.entries:
        if entry.tie in met - {tie}:  # ties that meet become one
            entries.remove(entry)
            member = state.redis.members[entry.member]
            if member.tie == entry.tie and wrong != "forget the smaller tie":
                entries.add(entry._replace(tie=tie))
                state = put(state, entry.member, member._replace(tie=tie))
    for i in who:
        state = put(state, i, state.redis.members[i]._replace(tie=tie))
        entries = {e for e in entries if (e.tie, e.member) != (tie, i)}
        entries.add(Entry(tie, i, state.clock))
    return set_redis(state._replace(clock=state.clock + 1), entries=tuple(sorted(entries)))


def restore(state: State, wrong: str) -> State:
    """Restore a core from the row that was read, if the core is absent and the row is not old."""
    assert state.reader
    i, rows = state.reader
    row = rows[i]
    state = state._replace(reader=None)
    old = state.redis.members[i]
    if not row.exists or row.deleted:
        return state
    if state.redis.recovering:
        return state
    if old.loaded and wrong != "restore over what is live":
        return state
    if old.evicted > row.version and wrong != "restore from before the eviction":
        return state
    with_session = row.in_session and is_open(rows, state.size)
    if with_session and is_stale_session(state, rows):
        return state
    state = set_to_row(state, i, rows)
    return restore_session(state, rows) if with_session else state


def _noted(state: State, wrong: str) -> State:
    """Note that character 0 is about to be deleted; snapshots on their way lose their claims."""
    member = state.redis.members[0]
    if not member.loaded or wrong == "no note of a deletion":
        return state
    if wrong != "a deletion leaves the claim" and member.token:
        member = member._replace(token=0, dirty=True)
    return put(state, 0, member._replace(seals=(DELETED, *(member.seals or ()))))


def _deletion(state: State, wrong: str) -> Iterator[Step]:
    """Delete character 0: note it, delete the row, forget the core; each step may be the last."""
    row = state.postgres.rows[0]
    if state.budget.deletions and not state.deleting:
        noted = spend(_noted(state, wrong), "deletions")
        yield "a deletion notes itself", noted._replace(deleting=1)
    if state.deleting == 1:
        rows = (row._replace(deleted=True), *state.postgres.rows[1:])
        after = state._replace(postgres=state.postgres._replace(rows=rows), deleting=2)
        yield "it deletes the row", after
        words = tuple(word for word in state.redis.members[0].seals or () if word != DELETED)
        failed = put(state, 0, state.redis.members[0]._replace(seals=words or None))
        yield "it cannot, and takes its note back", failed._replace(deleting=0)
    if state.deleting == 2:
        yield "it forgets the core", _forgotten(state)


def _forgotten(state: State) -> State:
    """Save who is tied to character 0 with its last backup, which a sweep does here; forget it."""
    _, entries = group(state, 0)
    for i in {entry.member for entry in entries} - {0}:
        partner = state.redis.members[i]._replace(quarantined=False, token=0, dirty=True)
        state = put(state, i, partner)
    state = untie(state, [entry for entry in entries if entry.member == 0])
    return put(state, 0, Hash(evicted=HIGHEST))._replace(deleting=0)
