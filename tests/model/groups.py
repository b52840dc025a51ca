"""Groups, ties and claims: what several scripts need."""

from __future__ import annotations

from collections.abc import Iterable

from tests.model.state import Entry, Hash, State, put, set_redis

PARTICIPANTS = (0, 1)
"""Who takes part in the session."""


def group(
    state: State, first: int, known: tuple[int, ...] = ()
) -> tuple[list[int], tuple[Entry, ...]]:
    """Return the loaded members of a group, the first one first, and the ties that make it one."""
    members, redis = {first, *known}, state.redis
    while True:
        ties = {redis.members[i].tie for i in members} - {0}
        entries = tuple(e for e in redis.entries if e.tie in ties)
        wider = members | {e.member for e in entries}
        if any(redis.members[i].in_session for i in wider):
            wider.add(state.size)
        if state.size in wider and redis.members[state.size].loaded:
            wider.update(PARTICIPANTS)
        if wider == members:
            present = [i for i in sorted(members) if redis.members[i].loaded]
            return sorted(present, key=lambda i: i != first), entries
        members = wider


def untie(state: State, entries: Iterable[Entry]) -> State:
    """Drop entries, and the ties that the hashes name."""
    for entry in entries:
        member = state.redis.members[entry.member]
        if member.tie == entry.tie:
            state = put(state, entry.member, member._replace(tie=0))
    dropped = set(entries)
    return set_redis(state, entries=tuple(e for e in state.redis.entries if e not in dropped))


def is_ours(state: State, i: int, token: int) -> bool:
    return state.redis.members[i].token == token


def withdrawn(seals: tuple[int, ...] | None, own: int) -> tuple[int, ...]:
    return tuple(word for word in seals or () if word != own)


def release(state: State, w: int, *, withdraw: bool = True) -> State:
    """Give back the claims that are still ours, and withdraw the own seal: it was not written."""
    worker = state.workers[w]
    ours = {i for i, token in worker.claims if is_ours(state, i, token)}
    for i in ours:
        old = state.redis.members[i]
        state = put(state, i, old._replace(token=0, dirty=True))
    for i, _ in worker.snapshot:
        old = state.redis.members[i]
        if i >= state.size and worker.claims[0][0] in ours:
            ours.add(i)
        if withdraw and i in ours and worker.seal:
            state = put(state, i, old._replace(seals=withdrawn(old.seals, worker.seal) or None))
    return state


def clear_closed(state: State, members: Iterable[int]) -> State:
    """Delete a session whose end is durable, and the references to it."""
    i = state.size
    session = state.redis.members[i]
    for char in members:
        old = state.redis.members[char]
        if char < i and old.in_session:
            state = put(state, char, old._replace(in_session=False, dirty=True))
    return put(state, i, Hash(evicted=session.version))
