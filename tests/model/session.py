"""The session of characters 0 and 1: opened, played in, closed; its items are theirs."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.groups import PARTICIPANTS
from tests.model.state import (
    Hash,
    Row,
    State,
    Step,
    added,
    changed,
    loaded,
    marked,
    put,
    spend,
)


def session(state: State) -> Iterator[Step]:
    """Yield what may be done to the session; nothing if the world has none."""
    s = state.size
    if len(state.redis.members) == s:
        return
    live, row, budget = state.redis.members[s], state.postgres.rows[s], state.budget
    ready = all(_is_free(state.redis.members[i]) for i in PARTICIPANTS)
    if budget.meetings and not live.loaded and not row.exists and not live.evicted and ready:
        yield "the session is opened", spend(_opened(state), "meetings")
    if not live.loaded or live.closed:
        return
    for i in PARTICIPANTS:
        member = state.redis.members[i]
        if budget.moves and member.loaded and member.in_session:
            for giver, taker in ((i, s), (s, i)):
                for item in state.redis.members[giver].items:
                    moved = spend(_moved(state, giver, taker, item, i), "moves")
                    yield f"an item moves from {giver} to {taker}", moved
    if budget.rounds and any(state.redis.members[i].in_session for i in PARTICIPANTS):
        yield "a round is fought in the session", spend(_fought(state), "rounds")
    if budget.closings:
        closed = put(state, s, live._replace(closed=True))
        present = [i for i in PARTICIPANTS if state.redis.members[i].loaded]
        yield "the session is closed", spend(marked(changed(closed, s), s, *present), "closings")


def _is_free(member: Hash) -> bool:
    return member.loaded and not member.in_session and not member.quarantined


def _opened(state: State) -> State:
    for i in PARTICIPANTS:
        state = put(state, i, state.redis.members[i]._replace(in_session=True))
    s = state.size
    return marked(changed(put(state, s, Hash(loaded=True)), s, *PARTICIPANTS), s, *PARTICIPANTS)


def _fought(state: State) -> State:
    """Only the session changes; who is in it is marked."""
    state = marked(changed(state, state.size), state.size)
    for i in PARTICIPANTS:
        member = state.redis.members[i]
        dirty = member.dirty or (member.loaded and member.in_session)
        state = put(state, i, member._replace(dirty=dirty))
    return state


def _moved(state: State, giver: int, taker: int, item: int, i: int) -> State:
    """One script: the session and the core change, and the character is marked."""
    members = state.redis.members
    rest = tuple(other for other in members[giver].items if other != item)
    state = put(state, giver, members[giver]._replace(items=rest))
    state = put(state, taker, members[taker]._replace(items=added(members[taker].items, item)))
    return marked(changed(state, state.size, i), state.size, i)


def is_open(rows: tuple[Row, ...], size: int) -> bool:
    return len(rows) > size and rows[size].exists and not rows[size].closed


def set_to_row(state: State, i: int, rows: tuple[Row, ...]) -> State:
    """Set a character to its row; a reference to a session that has ended goes, with a mark."""
    new = loaded(state.redis.members[i], rows[i])
    if new.in_session and not is_open(rows, state.size):
        new = new._replace(in_session=False, dirty=True)
    return put(state, i, new)


def is_stale_session(state: State, rows: tuple[Row, ...]) -> bool:
    """Whether the session was live and has gone since its row was read: all is read again."""
    old = state.redis.members[state.size]
    return not old.loaded and old.evicted > rows[state.size].version


def restore_session(state: State, rows: tuple[Row, ...]) -> State:
    """Restore the session from its row, if it is absent."""
    old, row = state.redis.members[state.size], rows[state.size]
    if old.loaded:
        return state
    return put(state, state.size, loaded(old, row))


def evict(state: State, i: int) -> State | None:
    """Evict a character, and the session with the last loaded participant; None if it may not."""
    members, s = state.redis.members, state.size
    member = members[i]
    evicted = put(state, i, Hash(evicted=member.version))
    if not member.in_session:
        return evicted
    others = [members[j] for j in PARTICIPANTS if j != i]
    if not members[s].loaded or any(other.loaded and other.in_session for other in others):
        return evicted
    if any(not other.loaded and (other.dirty or other.token) for other in others):
        return None
    return put(evicted, s, Hash(evicted=members[s].version))
