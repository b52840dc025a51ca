"""What a worker does when the fence has refused its group."""

from __future__ import annotations

from tests.model.groups import PARTICIPANTS, group, is_ours, release, untie
from tests.model.session import is_open, restore_session, set_to_row
from tests.model.state import (
    LAID,
    LOST,
    Hash,
    Row,
    State,
    Worker,
    added,
    put,
    set_facts,
    set_postgres,
    set_redis,
    set_worker,
)

HIGHEST = 999
"""A tombstone above every version."""


def plan(state: State, w: int, wrong: str) -> State:
    """Read the rows of the group at one moment; who else is in their session joins the group."""
    worker, rows = state.workers[w], state.postgres.rows
    if not all(is_ours(state, *claimed) for claimed in worker.claims) and (
        wrong != "revert without tokens"
    ):
        return set_worker(release(state, w), w, Worker())
    if state.postgres.recovering and wrong != "only Redis remembers a recovery":
        state = set_redis(release(state, w), recovering=state.redis.recovering or 1)
        return set_worker(state, w, Worker())
    claimed = [i for i, _ in worker.claims]
    if _open_session(state, claimed, rows) and wrong != "revert without the rows' sessions":
        missing = [i for i in PARTICIPANTS if i not in claimed and state.redis.members[i].loaded]
        if missing:
            return _join(state, w, missing)
    unknown = tuple(i for i, _ in worker.result)
    planned = worker._replace(
        step="planned", result=tuple(enumerate(rows)), known=unknown, snapshot=(), entries=()
    )
    return set_worker(state, w, planned)


def _open_session(state: State, characters: list[int], rows: tuple[Row, ...]) -> bool:
    """Whether the rows say that one of some characters is in the session."""
    return is_open(rows, state.size) and any(rows[i].in_session for i in characters)


def _join(state: State, w: int, missing: list[int]) -> State:
    """Begin a new round with more characters."""
    (first, token), *others = state.workers[w].claims
    state = release(state, w)
    state = put(state, first, state.redis.members[first]._replace(token=token))
    known = added((), *missing, *(i for i, _ in others))
    return set_worker(state, w, Worker("claimed", ((first, token),), known=known))


def revert(state: State, w: int, wrong: str) -> State:
    """Set all that is tied to its rows, and keep what is taken out of play, in one script."""
    worker = state.workers[w]
    rows, first = tuple(row for _, row in worker.result), worker.claims[0][0]
    known = tuple(i for i, _ in worker.claims)
    is_back = (
        _open_session(state, list(known), rows) and wrong != "revert without the rows' sessions"
    )
    if is_back and wrong != "revert over the session of another":
        known = (*known, state.size)  # live again: who plays in it is set to the rows as well
    members, entries = group(state, first, known)
    characters = [i for i in members if i < state.size]
    tokens = dict(worker.claims)
    if wrong == "revert only the one that was found":
        members = characters = [i for i in worker.known if i < state.size]
    ours = all(is_ours(state, i, tokens.get(i, -1)) for i in characters)
    if state.redis.recovering:
        return set_worker(release(state, w), w, Worker())
    if not ours and wrong != "revert without tokens":
        return set_worker(release(state, w), w, Worker())
    state = untie(state, entries)
    for i in members:
        state = _drop(state, i, rows[i])
    if is_back and state.size not in members:
        state = _drop(state, state.size, rows[state.size])
    for i in characters:
        if not state.redis.members[i].loaded and rows[i].exists and not rows[i].deleted:
            state = set_to_row(state, i, rows)
    if is_back:
        state = restore_session(state, rows)
    return set_worker(state, w, Worker())


def _drop(state: State, i: int, row: Row) -> State:
    """Take a live member out of play, and keep what it was; its tombstone is for good or gone."""
    old = state.redis.members[i]
    if not old.loaded:
        return state
    state = set_redis(state, dropped=added(state.redis.dropped, (i, row.seal, old.changes)))
    is_there = row.exists and not row.deleted and not row.closed
    return put(state, i, Hash(evicted=0 if is_there else HIGHEST))


def note_loss(state: State, wrong: str) -> State:
    """Compare the counters of both servers, as a sweep does; PostgreSQL remembers Redis' one.

    If Redis has started again, PostgreSQL knows better whether it is being recovered.
    """
    facts, redis, postgres = state.facts, state.redis, state.postgres
    recovering, went_back = redis.recovering, redis.sweeps < postgres.redis_sweeps
    if facts.redis_unnoticed and wrong != "only Redis remembers a recovery":
        went_back = went_back or (postgres.recovering and not recovering)
        recovering = (recovering or 1) if postgres.recovering else 0
    if facts.postgres_unnoticed:
        recovering = recovering or 1
    state = set_redis(state, settling=redis.settling or went_back, recovering=recovering)
    state = set_postgres(
        state,
        redis_sweeps=redis.sweeps,
        recovering=postgres.recovering or facts.postgres_unnoticed,
    )
    return set_facts(state, redis_unnoticed=False, postgres_unnoticed=False)


def check(state: State, w: int, wrong: str) -> State:
    """Count a sweep before a stump is laid over its row: that tells whether Redis went back."""
    sweeps = state.redis.sweeps + (state.redis.sweeps >= state.postgres.redis_sweeps)
    state = note_loss(set_redis(state, sweeps=sweeps), wrong)
    worker = state.workers[w]._replace(step="checked", sweeps=sweeps)
    return set_worker(state, w, worker)


def lay(state: State, w: int, wrong: str) -> State:
    """Fill in from the rows what bare writers did not write, unless Redis went back since.

    It counts as a sweep, which PostgreSQL remembers with the save of what is laid.
    """
    worker = state.workers[w]
    sure = state.redis.sweeps >= worker.sweeps or wrong == "lay stumps of an older Redis"
    sure = sure and not state.redis.settling
    if sure or wrong in {"lay stumps while settling", "lay stumps unchecked"}:
        ours = {i for i, token in worker.claims if is_ours(state, i, token)}
        for i, row in worker.result:
            words = state.redis.members[i].seals or ()
            lost = LOST in words and wrong != "no note of what was lost"
            known = worker.seal in words or worker.old
            if i in ours and row.exists and known and not lost:
                state = _lay(state, i, row, wrong)
    return set_worker(release(state, w), w, Worker())


def _lay(state: State, i: int, row: Row, wrong: str) -> State:
    if wrong != "laying does not count":
        state = set_redis(state, sweeps=state.redis.sweeps + 1)
    old = state.redis.members[i]
    below = tuple(change for change in row.changes if change not in old.changes)
    new = old._replace(
        items=row.items,
        changes=below + old.changes,
        version=max(old.version, row.version),
        saved=row.version,
        seals=(LAID, *(row.seals() or ())),
        in_session=row.in_session,
    )
    return put(state, i, new)


def raise_version(state: State, w: int, _wrong: str) -> State:
    """Raise versions that a bare writer has put back."""
    worker = state.workers[w]
    for i, row in worker.result:
        if i >= state.size or is_ours(state, i, dict(worker.claims)[i]):
            old = state.redis.members[i]
            if old.loaded:
                state = put(state, i, old._replace(version=max(old.version, row.version)))
    return set_worker(release(state, w), w, Worker())


def note_postgres_back(state: State, w: int, _wrong: str) -> State:
    state = set_redis(release(state, w), recovering=state.redis.recovering or 1)
    state = set_postgres(state, recovering=True)
    return set_worker(set_facts(state, postgres_unnoticed=False), w, Worker())


def quarantine(state: State, w: int, _wrong: str) -> State:
    """Quarantine a group, unless one has gone meanwhile: then the others are read again."""
    worker = state.workers[w]
    if not all(state.redis.members[i].loaded for i, _ in worker.claims):
        return set_worker(release(state, w), w, Worker())
    ours = [i for i, token in worker.claims if is_ours(state, i, token)]
    dirty = {i: state.redis.members[i].dirty for i in ours}
    state = release(state, w)
    for i in ours:
        old = state.redis.members[i]
        state = put(state, i, old._replace(dirty=dirty[i], quarantined=True))
    return set_worker(state, w, Worker())
