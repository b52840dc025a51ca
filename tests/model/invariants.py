"""What holds in every state, whatever happened before."""

from __future__ import annotations

from functools import cache

from tests.model.backup import advance, claim
from tests.model.revert import note_loss
from tests.model.servers import compared, record, recovered, settled
from tests.model.state import Budget, Facts, Postgres, Redis, State, Worker, put, set_redis


def nothing_is_lost(_: State, now: State, _wrong: str) -> bool:
    """Without a loss, what PostgreSQL lacks is marked or claimed, or its writer will mark it.

    Or it is in quarantine, where it has a name.
    """
    if now.facts.redis_back or now.facts.postgres_back or now.facts.excused:
        return True
    return all(
        not m.loaded
        or row.deleted
        or row.changes == m.changes
        or m.dirty
        or m.token
        or m.unmarked
        or m.quarantined
        for m, row in zip(now.redis.members[: now.size], now.postgres.rows, strict=False)
    )


def rows_are_extended(before: State, now: State, _wrong: str) -> bool:
    """PostgreSQL only gets newer versions, and more changes, unless it goes back itself."""
    if now.facts.postgres_back != before.facts.postgres_back:
        return True
    return all(
        new.version >= old.version
        and new.changes[: len(old.changes)] == old.changes
        and new.deleted >= old.deleted
        for old, new in zip(before.postgres.rows, now.postgres.rows, strict=True)
    )


def nothing_vanishes(before: State, now: State, _wrong: str) -> bool:
    """A change that a server holds is held or recorded afterwards, unless a server goes back."""
    facts, then = now.facts, before.facts
    if facts.redis_back != then.redis_back or facts.postgres_back != then.postgres_back:
        return True
    if before.redis is now.redis and before.postgres is now.postgres:
        return True
    if before.deleting and not now.deleting:
        return True
    return _held(before.redis, before.postgres) <= _held(now.redis, now.postgres)


@cache
def _held(redis: Redis, postgres: Postgres) -> frozenset[int]:
    held = set(postgres.recorded)
    for changes in (
        *(m.changes for m in redis.members),
        *(row.changes for row in postgres.rows),
        *(dropped for _, _, dropped in redis.dropped),
    ):
        held.update(changes)
    return frozenset(held)


def play_never_goes_back(before: State, now: State, _wrong: str) -> bool:
    """No restore brings an older state into the game than PostgreSQL has."""
    facts = now.facts
    if before.reader is None or now.reader or facts.redis_back or facts.postgres_back:
        return True
    i, _ = before.reader
    new, row = now.redis.members[i], now.postgres.rows[i]
    if facts.excused or before.redis.members[i].loaded or not new.loaded:
        return True
    return set(new.changes) >= set(row.changes)


def trades_are_whole(_: State, now: State, _wrong: str) -> bool:
    """Every item is in PostgreSQL exactly once, at any time.

    A recovery may take its time, and Redis may go back meanwhile.
    """
    facts, recovering = now.facts, now.redis.recovering
    if facts.postgres_back and (recovering or facts.postgres_unnoticed or facts.redis_back):
        return True
    rows = now.postgres.rows
    if any(row.deleted for row in rows):
        return True
    saved = sorted([item for row in rows for item in row.items])
    return saved == list(range(len(saved))) and len(saved) == (now.size > 3) + 1


def reverts_are_whole(before: State, now: State, _wrong: str) -> bool:
    """Nobody is set to rows of which some are saved again and others are of a backup still."""
    if len(now.redis.dropped) <= len(before.redis.dropped):
        return True
    rows = now.postgres.rows
    saved = sorted([item for row in rows for item in row.items])
    return any(row.deleted for row in rows) or saved == list(range((now.size > 3) + 1))


def no_half_is_saved(before: State, now: State, _wrong: str) -> bool:
    """A save brings a change to all that its snapshot holds it of, unless one is being deleted."""
    if before.postgres.rows == now.postgres.rows or now.deleting:
        return True
    old = {change for row in before.postgres.rows for change in row.changes}
    return all(
        (set(read.changes) - old).isdisjoint({c for row in now.postgres.rows for c in row.changes})
        or set(read.changes) <= set(now.postgres.rows[i].changes)
        for was, worker in zip(before.workers, now.workers, strict=True)
        if was.step in {"read", "late"} and was != worker
        for i, read in was.snapshot
    )


def no_false_alarm(_: State, now: State, _wrong: str) -> bool:
    """Nothing is recorded or quarantined if Redis did not go back.

    A deletion under way may find who traded with the character in quarantine; it saves them.
    """
    if now.facts.redis_back or now.facts.excused or now.deleting:
        return True
    quarantined = any(m.quarantined for m in now.redis.members)
    return not quarantined and not now.redis.dropped and not now.postgres.recorded


def receipts_are_true(_: State, now: State, wrong: str) -> bool:
    """What a receipt says is durable is in PostgreSQL, unless that went back itself."""
    rows, nonces = now.postgres.rows, now.postgres.nonces
    if wrong == "receipts by version":
        return all(
            nonce in rows[i].changes or rows[i].version < version
            for i, version, nonce in now.facts.receipts
        )
    return all(nonce in rows[i].changes for i, _, nonce in now.facts.receipts if nonce in nonces)


def all_settles(_: State, now: State, wrong: str) -> bool:
    """If every process dies here, sweeps and scrub alone save everything and leave nothing over."""
    facts = now.facts._replace(receipts=(), excused=False)
    return _settles(now.redis, now.postgres, facts, now.clock, now.size, now.max_seals, wrong)


@cache
def _settles(
    redis: Redis,
    postgres: Postgres,
    facts: Facts,
    clock: int,
    size: int,
    max_seals: int,
    wrong: str,
) -> bool:
    state = State(
        redis, postgres, (Worker(),), Budget(), clock, facts, size=size, max_seals=max_seals
    )
    for i, m in enumerate(redis.members[:size]):
        dirty = bool(m.token or m.dirty or m.unmarked)
        state = put(state, i, m._replace(token=0, dirty=dirty, unmarked=False))
    for _ in range(4):
        before = state
        state = _sweep(state, wrong)
        if state == before:
            break
    return is_settled(state)


def _sweep(state: State, wrong: str) -> State:
    """Run one sweep, with its backups, and one scrub."""
    state = note_loss(state, wrong)
    if state.redis.recovering == 1:
        state = set_redis(compared(state, wrong), recovering=2)
    if state.redis.settling:
        state = settled(state, wrong)
    for i in range(state.size):
        for _ in range(3):
            member = state.redis.members[i]
            if not member.loaded or not member.dirty:
                break
            state = claim(state, 0, i, wrong)
            while state.workers[0].step != "idle":
                _, state = advance(state, 0, wrong)
    if state.redis.recovering == 2 and not any(m.dirty for m in state.redis.members):
        state = recovered(state)
    if state.redis.dropped:
        state = record(state)
    return compared(state, wrong)


def is_settled(state: State) -> bool:
    """Whether what is live is as its row, or in quarantine, and nothing is left to do."""
    redis = state.redis
    if redis.entries or redis.dropped or redis.settling or redis.recovering:
        return any(m.quarantined for m in redis.members)
    for member, row in zip(redis.members, state.postgres.rows, strict=True):
        if not member.loaded or member.quarantined or row.deleted:
            continue
        if member.dirty or member.token or member.tie or not row.exists:
            return False
        if (member.items, member.changes) != (row.items, row.changes):
            return False
        if member.in_session and not redis.members[state.size].loaded:
            return False
    return True


OF_STEPS = (
    rows_are_extended,
    receipts_are_true,
    nothing_vanishes,
    play_never_goes_back,
    reverts_are_whole,
    no_half_is_saved,
)
"""Invariants of a step from one state to the next."""
OF_STATES = (trades_are_whole, no_false_alarm, nothing_is_lost, all_settles)
