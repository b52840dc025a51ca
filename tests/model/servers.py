"""Servers that go back in time, and what notices it: counters, comparison, recovery, scrub."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.groups import PARTICIPANTS
from tests.model.revert import note_loss
from tests.model.state import (
    CREATED,
    LOST,
    State,
    Step,
    Worker,
    put,
    set_facts,
    set_postgres,
    set_redis,
    spend,
)

_ON_ITS_WAY = ("read", "late")


def servers(state: State, wrong: str) -> Iterator[Step]:
    """Yield what may happen to the servers, and what sweeps do about it."""
    facts, redis = state.facts, state.redis
    if state.budget.redis:
        if state.redis_then != redis:
            yield "Redis will go back to here", state._replace(redis_then=redis)
        if state.redis_then not in {None, redis}:
            yield "Redis goes back", _redis_back(state)
            yield "Redis goes back over a sweep", _redis_back(_swept(state))
    if state.budget.postgres:
        if state.postgres_then != state.postgres:
            yield "PostgreSQL will go back to here", state._replace(postgres_then=state.postgres)
        if state.postgres_then not in {None, state.postgres}:
            yield "PostgreSQL goes back", _postgres_back(state)
            unnoticed = set_facts(_postgres_back(state), postgres_unnoticed=False)
            yield "PostgreSQL goes back by less than a sweep", unnoticed
    if facts.redis_unnoticed or facts.postgres_unnoticed:
        yield "a sweep compares the counters", note_loss(state, wrong)
    if redis.recovering == 1:
        yield "recovery marks what is live", set_redis(compared(state, wrong), recovering=2)
    if redis.recovering == 2 and not any(m.dirty or m.token for m in redis.members):
        yield "recovery ends", recovered(state)
    if redis.settling:
        yield "all that is live has been compared", settled(state, wrong)
    elif (facts.redis_back or facts.postgres_back) and compared(state, wrong) != state:
        yield "a scrub marks", compared(state, wrong)
    if redis.dropped:
        yield "what was dropped is recorded", record(state)


def recovered(state: State) -> State:
    return set_postgres(set_redis(state, recovering=0), recovering=False)


def _redis_back(state: State) -> State:
    """Bring Redis back in time.

    A commit of a recovery that is on its way then ends with it. That is no promise, but a known
    limit: it may leave one side of a trade in PostgreSQL, which nobody can tell later.
    """
    assert state.redis_then
    workers = tuple(
        Worker() if w.recovering and w.step in _ON_ITS_WAY else w for w in state.workers
    )
    then = state.redis_then
    state = spend(state, "redis")._replace(redis=then, redis_then=None, workers=workers)
    back = state.facts.redis_back + 1
    return set_facts(state, redis_back=back, redis_unnoticed=True)


def _swept(state: State) -> State:
    """Whatever Redis goes back to, PostgreSQL remembers a sweep that came later."""
    postgres = state.postgres._replace(redis_sweeps=state.redis.sweeps + 1)
    return state._replace(postgres=postgres)


def _postgres_back(state: State) -> State:
    assert state.postgres_then
    state = spend(state, "postgres")._replace(postgres=state.postgres_then, postgres_then=None)
    back = state.facts.postgres_back + 1
    return set_facts(state, postgres_back=back, postgres_unnoticed=True)


def record(state: State) -> State:
    changes = {change for _, _, changes in state.redis.dropped for change in changes}
    recorded = tuple(sorted({*state.postgres.recorded, *changes}))
    state = state._replace(postgres=state.postgres._replace(recorded=recorded))
    return set_redis(state, dropped=())


def settled(state: State, wrong: str) -> State:
    """Compare everything live once; note what may have been laid over its row before."""
    for i in range(state.size):
        old = state.redis.members[i]
        words = old.seals or ()
        is_stump = old.loaded and old.saved is None and CREATED not in words
        if is_stump and state.postgres.rows[i].exists and wrong != "no note of what was lost":
            state = put(state, i, old._replace(seals=(LOST, *words)))
    return set_redis(compared(state, wrong), settling=False)


def compared(state: State, wrong: str) -> State:
    """Mark the characters that do not match their rows: what a scrub does."""
    differing = [i for i in range(state.size) if not _matches(state, i, wrong)]
    if len(state.redis.members) > state.size and wrong != "scrub does not compare sessions":
        live, row = state.redis.members[state.size], state.postgres.rows[state.size]
        known = row.exists and (not row.sealed or row.seal in (live.seals or ()))
        if live.loaded and not (known and row.version == live.version):
            differing += [i for i in PARTICIPANTS if state.redis.members[i].in_session]
    for i in differing:
        old = state.redis.members[i]
        if old.loaded and not old.token and not old.unmarked:
            state = put(state, i, old._replace(dirty=not old.quarantined or old.dirty))
    return state


def _matches(state: State, i: int, wrong: str) -> bool:
    old, row = state.redis.members[i], state.postgres.rows[i]
    if old.version != old.saved:
        return False
    if wrong == "scrub does not compare seals":
        return True
    if not row.exists or row.deleted or row.version < old.saved:
        return False
    if not row.sealed or old.seals is None:
        return row.version == old.saved
    return row.seal in old.seals
