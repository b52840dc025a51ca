"""The protocol as a model: small enough to read, and searched in every order of its steps.

One script in Redis, or one transaction in PostgreSQL, is one step. Between any two steps anything
else may happen: other workers, a crash, the end of a lease. A lease may end at any time, so the
model covers the slowest worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

Value = tuple[tuple[int, ...], int]


class Character(NamedTuple):
    """A character in Redis; ``value`` is its items and the number of its changes."""

    value: Value
    version: int = 1
    saved: int = 1
    """``saved_version``."""
    dirty: bool = False
    token: int = 0
    """The claim on it; 0 is none."""
    tie: int = 0
    """The tie that its core names; 0 is none."""
    loaded: bool = True
    evicted: int = 0
    """The version at which it was last evicted."""
    unmarked: bool = False
    """A bare writer has written and has not marked the character yet."""


class Row(NamedTuple):
    """A character in PostgreSQL."""

    value: Value
    version: int = 1


class Entry(NamedTuple):
    """One character in a tie, with the token of the last change that tied it."""

    tie: int
    character: int
    token: int


class Worker(NamedTuple):
    """A worker: ``idle``, ``claimed``, ``read`` (it has its snapshot) or ``committed``."""

    step: str = "idle"
    claims: tuple[tuple[int, int], ...] = ()
    """Pairs of a character and its token; the first pair is the one the worker was sent for."""
    snapshot: tuple[tuple[int, Row], ...] = ()
    entries: frozenset[Entry] = frozenset()
    """The ties as they were at the snapshot."""
    durable_versions: tuple[tuple[int, int], ...] = ()
    """The versions that are in PostgreSQL; empty if the fence refused the group."""


class Budget(NamedTuple):
    """How often each thing may still happen."""

    writes: int = 0
    bare: int = 0
    trades: int = 0
    crashes: int = 0
    expiries: int = 0
    evictions: int = 0


class State(NamedTuple):
    """Redis, PostgreSQL, and the workers and the restore between them."""

    characters: tuple[Character, ...]
    rows: tuple[Row, ...]
    workers: tuple[Worker, ...]
    budget: Budget
    entries: frozenset[Entry] = frozenset()
    clock: int = 1
    """The next token; none is used twice."""
    reader: tuple[int, Row] | None = None
    """A restore that has read a row and has not written it to Redis yet."""


Step = tuple[str, State]
MUTATIONS = (
    "no fence",
    "no bump at the snapshot",
    "acknowledge without token",
    "unmark after the save",
    "no ties",
    "untie at the snapshot",
    "untie whatever has been tied since",
    "drop the whole tie",
    "forget the smaller tie",
    "evict without looking at the mark",
    "restore over what is live",
    "restore from before the eviction",
)


def start(characters: int, workers: int, budget: Budget, items: int = 1) -> State:
    """Everything is saved and clean; every other character has an item, until none is left."""
    values: list[Value] = [
        ((i,) if i % 2 == 0 and i < 2 * items else (), 0) for i in range(characters)
    ]
    return State(
        tuple(map(Character, values)), tuple(map(Row, values)), (Worker(),) * workers, budget
    )


def steps(state: State, wrong: str = "") -> Iterator[Step]:
    """Yield every step that may come next; ``wrong`` is the mutation to make."""
    assert not wrong or wrong in MUTATIONS
    for i, character in enumerate(state.characters):
        yield from game(state, i, character, wrong)
        if character.token and state.budget.expiries:
            # A sweep finds that the lease has ended.
            requeued = character._replace(token=0, dirty=True)
            yield f"lease on {i} ends", spend(put(state, i, requeued), "expiries")
        idle = [w for w, worker in enumerate(state.workers) if worker.step == "idle"]
        if character.loaded and character.dirty and idle:
            yield f"a worker claims {i}", claim(state, idle[0], i, wrong)
    for w, worker in enumerate(state.workers):
        claims = ", ".join(f"{i} by claim {token}" for i, token in worker.claims)
        name = f"the worker on {claims}"
        if worker.step == "claimed":
            yield f"{name} takes its snapshot", snapshot(state, w, wrong)
        elif worker.step == "read":
            yield f"{name} commits", commit(state, w, wrong)
        elif worker.step == "committed":
            yield f"{name} acknowledges", acknowledge(state, w, wrong)
        if worker.step != "idle" and state.budget.crashes:
            yield f"{name} crashes", spend(set_worker(state, w, Worker()), "crashes")
    if state.reader:
        yield "the restore writes", restore(state, wrong)


def game(state: State, i: int, character: Character, wrong: str) -> Iterator[Step]:
    """Yield what game code, a login and a logout may do with one character."""
    items, changes = character.value
    if not character.loaded:
        if state.reader is None:
            yield f"a restore reads row {i}", state._replace(reader=(i, state.rows[i]))
        return
    changed = character._replace(value=(items, changes + 1))
    if state.budget.writes:
        written = changed._replace(version=character.version + 1, dirty=True)
        yield f"write {i}", spend(put(state, i, written), "writes")
    if state.budget.bare and not character.unmarked:
        yield f"bare write {i}", spend(put(state, i, changed._replace(unmarked=True)), "bare")
    if character.unmarked:
        yield f"bare mark {i}", put(state, i, character._replace(unmarked=False, dirty=True))
    for item, other in product(items, range(len(state.characters))):
        if state.budget.trades and other != i and state.characters[other].loaded:
            yield f"trade {i} -> {other}", spend(trade(state, i, other, item, wrong), "trades")
    clean = character.version == character.saved and not character.token
    clean = clean and (not character.dirty or wrong == "evict without looking at the mark")
    if state.budget.evictions and clean and not character.unmarked:
        evicted = character._replace(loaded=False, dirty=False, tie=0, evicted=character.version)
        yield f"evict {i}", spend(put(state, i, evicted), "evictions")
    if state.reader is None and state.budget.evictions:
        yield f"a restore reads row {i}", state._replace(reader=(i, state.rows[i]))


def trade(state: State, giver: int, taker: int, item: int, wrong: str) -> State:
    """Move an item: one script changes both characters and ties them."""
    met = {state.characters[i].tie for i in (giver, taker)} - {0}
    tie = min(met, default=state.clock)
    entries = set(state.entries)
    for entry in state.entries:
        if entry.tie in met - {tie}:  # ties that meet become one
            entries.remove(entry)
            member = state.characters[entry.character]
            if member.tie == entry.tie and wrong != "forget the smaller tie":
                entries.add(entry._replace(tie=tie))
                state = put(state, entry.character, member._replace(tie=tie))
    for i in (giver, taker):
        old = state.characters[i]
        rest = [other for other in old.value[0] if other != item]
        value = (tuple(sorted([*rest, item] if i == taker else rest)), old.value[1] + 1)
        new = old._replace(value=value, version=old.version + 1, dirty=True)
        if wrong != "no ties":
            new = new._replace(tie=tie)
            entries = {e for e in entries if (e.tie, e.character) != (tie, i)}
            entries.add(Entry(tie, i, state.clock))
        state = put(state, i, new)
    return state._replace(clock=state.clock + 1, entries=frozenset(entries))


def claim(state: State, w: int, i: int, wrong: str) -> State:
    dirty = wrong == "unmark after the save"
    state = put(state, i, state.characters[i]._replace(dirty=dirty, token=state.clock))
    worker = Worker("claimed", ((i, state.clock),))
    return set_worker(state, w, worker)._replace(clock=state.clock + 1)


def snapshot(state: State, w: int, wrong: str) -> State:
    """Read the claimed character's group at one instant, raise its versions, claim all of it."""
    ((first, token),) = state.workers[w].claims
    anchor = state.characters[first]
    if anchor.token != token or not anchor.loaded:
        return set_worker(state, w, Worker())
    group, entries = members(state, first)
    claims, rows = [], []
    for i in group:
        old = state.characters[i]
        new = old._replace(version=old.version + (wrong != "no bump at the snapshot"))
        new = new._replace(dirty=old.dirty and wrong == "unmark after the save")
        if i != first:
            new = new._replace(token=state.clock)
            state = state._replace(clock=state.clock + 1)
        claims.append((i, new.token))
        rows.append((i, Row(new.value, new.version)))
        state = put(state, i, new)
    if wrong == "untie at the snapshot":
        state = untie(state, entries)
    return set_worker(state, w, Worker("read", tuple(claims), tuple(rows), entries))


def members(state: State, first: int) -> tuple[list[int], frozenset[Entry]]:
    """Return the loaded characters of a group, and the ties that make it one."""
    group, ties = {first}, set[int]()
    while True:
        ties |= {state.characters[i].tie for i in group} - {0}
        entries = frozenset(e for e in state.entries if e.tie in ties)
        wider = group | {e.character for e in entries}
        if wider == group:
            loaded = [i for i in sorted(group) if state.characters[i].loaded]
            return sorted(loaded, key=lambda i: i != first), entries
        group = wider


def untie(state: State, entries: frozenset[Entry]) -> State:
    """Drop entries, and the ties that the cores name."""
    for entry in entries:
        member = state.characters[entry.character]
        if member.tie == entry.tie:
            state = put(state, entry.character, member._replace(tie=0))
    return state._replace(entries=state.entries - entries)


def commit(state: State, w: int, wrong: str) -> State:
    """Save the group in one transaction, whole or not at all: the fence is the row's version."""
    worker = state.workers[w]
    equal = wrong == "no bump at the snapshot"  # else no bare write would pass the fence
    versions: list[tuple[int, int]] = []
    rows = list(state.rows)
    for i, snapshot_row in worker.snapshot:
        row = state.rows[i]
        if row.version == snapshot_row.version - 1 and row.value == snapshot_row.value:
            versions.append((i, row.version))  # unchanged: the row is not touched
        elif row.version < snapshot_row.version + equal or wrong == "no fence":
            versions.append((i, snapshot_row.version))
            rows[i] = snapshot_row
    whole = len(versions) == len(worker.snapshot)
    if whole:
        state = state._replace(rows=tuple(rows))
    committed = worker._replace(step="committed", durable_versions=tuple(versions) if whole else ())
    return set_worker(state, w, committed)


def acknowledge(state: State, w: int, wrong: str) -> State:
    """End the claims that are still ours, and the ties that no change has renewed since."""
    worker = state.workers[w]
    durable_versions, snapshot_rows = dict(worker.durable_versions), dict(worker.snapshot)
    for i, token in worker.claims:
        old = new = state.characters[i]
        ours = old.token == token or wrong == "acknowledge without token"
        if i in durable_versions and old.loaded:
            if ours and durable_versions[i] < snapshot_rows[i].version == old.version:
                new = new._replace(version=durable_versions[i])
            new = new._replace(saved=max(new.saved, durable_versions[i]))
        if ours:
            # A refused character is dirty again, unless its row is newer than our snapshot.
            newer = state.rows[i].version > snapshot_rows[i].version
            refused = not durable_versions and not newer
            new = new._replace(token=0, dirty=old.dirty or refused)
            if wrong == "unmark after the save":
                new = new._replace(dirty=False)
        state = put(state, i, new)
    if durable_versions:
        unchanged = worker.entries & state.entries
        if wrong == "untie whatever has been tied since":
            known = {(e.tie, e.character) for e in worker.entries}
            unchanged = frozenset(e for e in state.entries if (e.tie, e.character) in known)
        if wrong == "drop the whole tie" and unchanged:
            ties = {entry.tie for entry in worker.entries}
            unchanged = frozenset(entry for entry in state.entries if entry.tie in ties)
        state = untie(state, unchanged)
    return set_worker(state, w, Worker())


def restore(state: State, wrong: str) -> State:
    """Restore a core from the row that was read, if the core is absent and the row is not old."""
    assert state.reader
    i, row = state.reader
    state = state._replace(reader=None)
    old = state.characters[i]
    if old.loaded and wrong != "restore over what is live":
        return state
    if old.evicted > row.version and wrong != "restore from before the eviction":
        return state
    return put(
        state,
        i,
        old._replace(loaded=True, value=row.value, version=row.version, saved=row.version),
    )


def put(state: State, i: int, character: Character) -> State:
    characters = (*state.characters[:i], character, *state.characters[i + 1 :])
    return state._replace(characters=characters)


def set_worker(state: State, w: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:w], worker, *state.workers[w + 1 :]))


def spend(state: State, event: str) -> State:
    left = getattr(state.budget, event) - 1
    return state._replace(budget=state.budget._replace(**{event: left}))


# Invariants: they hold in every state, whatever happened before


def nothing_is_lost(_: State, now: State, _wrong: str) -> bool:
    """A character that PostgreSQL lacks is marked or claimed, or its writer is about to mark it."""
    return all(
        row.value == c.value or c.dirty or c.token or c.unmarked
        for c, row in zip(now.characters, now.rows, strict=True)
    )


def rows_never_go_back(before: State, now: State, _wrong: str) -> bool:
    """A row's version and value only become newer."""
    return all(
        new.version >= old.version and new.value[1] >= old.value[1]
        for old, new in zip(before.rows, now.rows, strict=True)
    )


def play_never_goes_back(before: State, now: State, _wrong: str) -> bool:
    """No restore brings an older state into the game."""
    return all(
        new.value[1] >= old.value[1]
        for old, new in zip(before.characters, now.characters, strict=True)
    )


def trades_are_whole(_: State, now: State, _wrong: str) -> bool:
    """Every item is in PostgreSQL exactly once, at any time."""
    saved = sorted(item for row in now.rows for item in row.value[0])
    return saved == sorted(item for c in now.characters for item in c.value[0])


def all_settles(_: State, now: State, wrong: str) -> bool:
    """If every process dies here, sweeps alone save everything and leave nothing over."""
    characters = []
    for c in now.characters:
        dirty = bool(c.token or c.dirty or c.unmarked)
        characters.append(c._replace(token=0, dirty=dirty, unmarked=False))
    return _settles(tuple(characters), now.rows, now.entries, now.clock, wrong)


@cache
def _settles(
    characters: tuple[Character, ...],
    rows: tuple[Row, ...],
    entries: frozenset[Entry],
    clock: int,
    wrong: str,
) -> bool:
    state = State(characters, rows, (Worker(),), Budget(), entries, clock)
    for _ in range(2 * len(characters) + 1):
        claims = [after for name, after in steps(state, wrong) if "claims" in name]
        if not claims:
            break
        state = acknowledge(commit(snapshot(claims[0], 0, wrong), 0, wrong), 0, wrong)
    return not state.entries and all(
        c.value == row.value and not (c.dirty or c.token or c.tie)
        for c, row in zip(state.characters, state.rows, strict=True)
    )


INVARIANTS = (
    nothing_is_lost,
    rows_never_go_back,
    play_never_goes_back,
    trades_are_whole,
    all_settles,
)
