"""What the model holds: Redis, PostgreSQL, the workers, and what nobody can take back.

A change is known by its name, a number from 1000 on that is used once; so are seals, tokens and
ties. What a character or a session holds is the list of its changes, and its items.
"""

from __future__ import annotations

from typing import Any, NamedTuple

FIRST_NAME = 1000
CREATED, BARE, LOST, DELETED, LAID = -1, -2, -3, -4, -5
"""Notes in a list of seals: made by ``create``; it had no list when its first snapshot was taken;
found without a list after Redis went back; about to be deleted; laid over its row, which is not
saved yet."""


class Hash(NamedTuple):
    """A character or a session in Redis."""

    items: tuple[int, ...] = ()
    changes: tuple[int, ...] = ()
    version: int = 0
    saved: int | None = None
    """``saved_version``."""
    dirty: bool = False
    token: int = 0
    """The claim on it; 0 is none."""
    tie: int = 0
    """The tie that it names; 0 is none."""
    seals: tuple[int, ...] | None = None
    """Its entry in ``statesync:seals``, oldest first."""
    loaded: bool = False
    in_session: bool = False
    """Whether it points at the session."""
    closed: bool = False
    evicted: int = 0
    """The version of its tombstone."""
    unmarked: bool = False
    """A bare writer has written and has not marked the character yet."""
    quarantined: bool = False
    nonces: tuple[int, ...] = ()


class Row(NamedTuple):
    """A character or a session in PostgreSQL; ``exists`` is False if it was never saved."""

    items: tuple[int, ...] = ()
    changes: tuple[int, ...] = ()
    version: int = 0
    seal: int = 0
    seal_version: int = 0
    in_session: bool = False
    closed: bool = False
    deleted: bool = False
    exists: bool = False

    @property
    def sealed(self) -> bool:
        """Whether the last worker that wrote it knew of seals."""
        return self.seal != 0 and self.seal_version == self.version

    def seals(self) -> tuple[int, ...] | None:
        """Return the list of what has just been set to this row."""
        return (self.seal,) if self.sealed else None


class Entry(NamedTuple):
    """One member of a tie, with the token of the last change that tied it."""

    tie: int
    member: int
    token: int


class Redis(NamedTuple):
    """All that Redis may forget."""

    members: tuple[Hash, ...]
    """Characters; then the session, if there is one."""
    entries: tuple[Entry, ...] = ()
    dropped: tuple[tuple[int, int, tuple[int, ...]], ...] = ()
    """Who, the seal that was unknown, and the changes that a revert took out of play."""
    settling: bool = False
    recovering: int = 0
    """1: PostgreSQL went back. 2: all live characters that it lacks are marked."""
    sweeps: int = 0
    """The counter of sweeps."""


class Postgres(NamedTuple):
    """All that PostgreSQL may forget."""

    rows: tuple[Row, ...]
    nonces: tuple[int, ...] = ()
    recorded: tuple[int, ...] = ()
    """The changes in ``state_conflicts``."""
    recovering: bool = False
    """Whether it remembers that what is live is being saved again."""
    redis_sweeps: int = 0
    """Redis' counter, as PostgreSQL remembers it."""


class Worker(NamedTuple):
    """A worker. ``backup.NEXT`` has its steps."""

    step: str = "idle"
    claims: tuple[tuple[int, int], ...] = ()
    """Pairs of a character and its token; the first pair is the one the worker was sent for."""
    known: tuple[int, ...] = ()
    """Characters that belong to the group by their rows."""
    snapshot: tuple[tuple[int, Hash], ...] = ()
    """What it read, with versions raised and the seals as they were before."""
    seal: int = 0
    entries: tuple[Entry, ...] = ()
    """The ties as they were at the snapshot."""
    result: tuple[tuple[int, Row], ...] = ()
    """The rows as they are after its commit, or as a revert has read them."""
    settling: bool = False
    recovering: bool = False
    """The flags as they were at the snapshot."""
    sweeps: int = 0
    """The counter that it has written to Redis, or read there of a core that is laid."""
    old: bool = False
    """From before the upgrade: it knows of no seals."""


class Facts(NamedTuple):
    """What happened, whoever remembers it."""

    redis_back: int = 0
    postgres_back: int = 0
    redis_unnoticed: bool = False
    """Redis has started again, and no sweep has been counted since."""
    postgres_unnoticed: bool = False
    excused: bool = False
    """Something happened after which a record or a quarantine is right, though no server went
    back: a tombstone ended, an id was used twice, a deleted one was written to."""
    receipts: tuple[tuple[int, int, int], ...] = ()
    """A character, its version and the nonce of a durable change."""


class Budget(NamedTuple):
    """How often each thing may still happen."""

    writes: int = 0
    durable: int = 0
    bare: int = 0
    copies: int = 0
    """Bare writers that write a whole old hash back."""
    trades: int = 0
    crashes: int = 0
    expiries: int = 0
    direct: int = 0
    """Claims on a character that is claimed already."""
    doubts: int = 0
    """Commits of which the worker never learns what became of them."""
    evictions: int = 0
    tombstones: int = 0
    """Tombstones that end."""
    redis: int = 0
    postgres: int = 0
    """How often a server may go back."""
    creations: int = 0
    deletions: int = 0
    meetings: int = 0
    """How often the session may be opened."""
    moves: int = 0
    """Items that move between a participant and the session."""
    rounds: int = 0
    """Changes of the session alone."""
    closings: int = 0
    old: int = 0
    """Backups by a worker from before the upgrade."""


class State(NamedTuple):
    """Both servers, and whoever is between them."""

    redis: Redis
    postgres: Postgres
    workers: tuple[Worker, ...]
    budget: Budget
    clock: int
    """The next name."""
    facts: Facts = Facts()
    reader: tuple[int, tuple[Row, ...]] | None = None
    """A restore that has read the rows and has not written it to Redis yet."""
    copy: tuple[int, Hash] | None = None
    """A hash that a bare writer has read whole."""
    redis_then: Redis | None = None
    """What Redis may go back to."""
    postgres_then: Postgres | None = None
    deleting: int = 0
    """A deletion: 1 it has noted itself, 2 the row is deleted."""
    size: int = 1
    """How many characters there are."""
    max_seals: int = 9


Step = tuple[str, State]


def start(characters: int, workers: int, budget: Budget, **more: int) -> State:
    """Everything is saved and clean; every other character has an item, until none is left.

    ``more`` may have ``items`` (1), ``sessions`` (0), ``absent`` (0): how many of the characters,
    the last ones, are not loaded; ``max_seals``.
    """
    items, sessions = more.get("items", 1), more.get("sessions", 0)
    present = characters - more.get("absent", 0)
    members, rows = [], []
    for i in range(characters):
        held = (i // 2,) if i % 2 == 0 and i // 2 < items else ()
        rows.append(Row(held, (), 1, FIRST_NAME + i, 1, exists=True))
        members.append(loaded(Hash(), rows[i]) if i < present else Hash())
    members += [Hash()] * sessions
    rows += [Row()] * sessions
    return State(
        Redis(tuple(members)),
        Postgres(tuple(rows)),
        (Worker(),) * workers,
        budget,
        FIRST_NAME + characters,
        size=characters,
        max_seals=more.get("max_seals", 9),
    )


def loaded(before: Hash, row: Row) -> Hash:
    """Return a hash that has just been set to its row; the tombstone stays."""
    return Hash(
        row.items,
        row.changes,
        row.version,
        row.version,
        seals=row.seals(),
        loaded=True,
        in_session=row.in_session,
        closed=row.closed,
        evicted=before.evicted,
    )


def put(state: State, i: int, member: Hash) -> State:
    return set_redis(state, members=replaced(state.redis.members, i, member))


def set_redis(state: State, **changes: Any) -> State:
    return state._replace(redis=state.redis._replace(**changes))


def set_postgres(state: State, **changes: Any) -> State:
    return state._replace(postgres=state.postgres._replace(**changes))


def set_facts(state: State, **changes: Any) -> State:
    return state._replace(facts=state.facts._replace(**changes))


def set_worker(state: State, w: int, worker: Worker) -> State:
    return state._replace(workers=replaced(state.workers, w, worker))


def replaced(values: tuple[Any, ...], i: int, value: Any) -> tuple[Any, ...]:
    return (*values[:i], value, *values[i + 1 :])


def added(values: tuple[Any, ...], *new: Any) -> tuple[Any, ...]:
    """Return a set, kept as a sorted tuple, with more in it."""
    return tuple(sorted({*values, *new}))


def spend(state: State, event: str) -> State:
    left = getattr(state.budget, event) - 1
    return state._replace(budget=state.budget._replace(**{event: left}))


def changed(state: State, *who: int, unmarked: bool = False) -> State:
    """Add one change to all of some members."""
    for i in who:
        old = state.redis.members[i]
        state = put(state, i, old._replace(changes=(*old.changes, state.clock)))
        if unmarked:
            state = put(state, i, state.redis.members[i]._replace(unmarked=True))
    return state._replace(clock=state.clock + 1)


def marked(state: State, *who: int) -> State:
    """Raise versions, and mark the characters."""
    for i in who:
        old = state.redis.members[i]
        dirty = i < state.size or old.dirty
        state = put(state, i, old._replace(version=old.version + 1, dirty=dirty and i < state.size))
    return state
