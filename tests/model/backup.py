"""A backup: claim, snapshot, commit, acknowledge; and what a worker does if the fence refuses.

``claimed -> read -> committed -> idle`` is the way of a save. A commit that is refused goes on to
``unknown -> planned`` (the revert), ``stump -> checked``, ``behind``, ``back`` or ``quarantine``; a
snapshot that finds a list full to ``full -> resealed``. ``late`` is a commit on its way whose
worker has given up. Each step is one script or one transaction.
"""

from __future__ import annotations

from tests.model import revert
from tests.model.fence import (
    ACCEPTED,
    BEHIND,
    DEAD,
    GONE,
    NEW,
    SAVEABLE,
    STUMP,
    UNCHANGED,
    UNKNOWN,
    WENT_BACK,
    WRITTEN,
    content,
    decide,
    decide_session,
)
from tests.model.groups import clear_closed, group, is_ours, release, untie, withdrawn
from tests.model.state import (
    BARE,
    DELETED,
    LAID,
    Hash,
    Row,
    State,
    Worker,
    put,
    replaced,
    set_worker,
)


def claim(state: State, w: int, i: int, wrong: str, *, old: bool = False) -> State:
    dirty = wrong == "unmark after the save"
    state = put(state, i, state.redis.members[i]._replace(dirty=dirty, token=state.clock))
    worker = Worker("claimed", ((i, state.clock),), old=old)
    return set_worker(state, w, worker)._replace(clock=state.clock + 1)


def snapshot(state: State, w: int, wrong: str) -> State:
    """Read the claimed character's group at one instant, raise its versions, seal it, claim it."""
    worker = state.workers[w]
    ((first, token),) = worker.claims
    anchor = state.redis.members[first]
    if anchor.token != token or not anchor.loaded:
        return set_worker(state, w, Worker())
    members, entries = group(state, first, worker.known)
    state, claims = _claim_group(state, members, token, wrong)
    full = [i for i in members if _is_full(state, i)] if not worker.old else []
    if full and wrong != "just cut a full list":
        lists = tuple((i, state.redis.members[i]) for i in full)
        return set_worker(state, w, worker._replace(step="full", claims=claims, snapshot=lists))
    seal = 0 if worker.old else state.clock
    state = state._replace(clock=state.clock + (not worker.old))
    read = []
    for i in members:
        old = state.redis.members[i]
        new = old._replace(version=old.version + (wrong != "no bump at the snapshot"))
        read.append((i, _as_read(state, i, new, seal)))
        if seal:
            new = new._replace(seals=_sealed(old, seal, state.max_seals, wrong))
        state = put(state, i, new)
    if wrong == "untie at the snapshot":
        state = untie(state, entries)
    redis = state.redis
    worker = worker._replace(
        step="read",
        claims=claims,
        known=(),
        snapshot=tuple(read),
        seal=seal,
        entries=entries,
        settling=redis.settling,
        recovering=redis.recovering > 0,
        sweeps=redis.sweeps if any(LAID in (one.seals or ()) for _, one in read) else 0,
    )
    return set_worker(state, w, worker)


def _claim_group(
    state: State, members: list[int], token: int, wrong: str
) -> tuple[State, tuple[tuple[int, int], ...]]:
    claims: list[tuple[int, int]] = []
    for i in members:
        if i >= state.size:
            continue
        old = state.redis.members[i]
        if claims:
            token = state.clock
            state = state._replace(clock=token + 1)
        claims.append((i, token))
        dirty = old.dirty and wrong == "unmark after the save"
        state = put(state, i, old._replace(token=token, dirty=dirty))
    return state, tuple(claims)


def _as_read(state: State, i: int, new: Hash, seal: int) -> Hash:
    """Return what a worker keeps of a hash: no more than it needs, so that fewer states differ."""
    seals = new.seals
    if seal and not seals:
        seals = (BARE,)
    return Hash(
        new.items,
        new.changes,
        new.version,
        new.saved,
        seals=seals if seal else None,
        loaded=True,
        in_session=new.in_session,
        closed=new.closed,
        nonces=new.nonces,
    )


def _sealed(old: Hash, seal: int, max_seals: int, wrong: str) -> tuple[int, ...]:
    seals = old.seals or (() if wrong == "no note of a bare core" else (BARE,))
    if wrong == "keep only the last seal":
        seals = seals[-1:]
    if wrong == "drop the seals at the snapshot":
        seals = ()
    if wrong == "just cut a full list":
        seals = seals[-max_seals + 1 :]
    return (*seals, seal)


def _is_full(state: State, i: int) -> bool:
    words = state.redis.members[i].seals or ()
    return sum(word > 0 for word in words) >= state.max_seals


def commit(state: State, w: int, wrong: str) -> State:
    """Save the group in one transaction, whole or not at all."""
    worker = state.workers[w]
    rows = state.postgres.rows
    verdicts = verdicts_of(state, w, wrong)
    if not set(verdicts.values()) <= SAVEABLE and _is_same(state, w):
        verdicts = dict.fromkeys(verdicts, UNCHANGED)  # whatever the seals
    following, found = "committed", set(verdicts.values())
    if DEAD in found or (UNKNOWN in found and (worker.recovering or WENT_BACK in found)):
        following = "quarantine"
    elif UNKNOWN in found:
        following = "unknown"
    elif WENT_BACK in found and not worker.recovering:
        following = "back"
    elif STUMP in found or BEHIND in found:
        following = "stump" if STUMP in found else "behind"
    elif GONE in found and len(worker.claims) > 1 and wrong != "save who traded with a deleted one":
        following = "quarantine"
    if following != "committed":
        refusing = {UNKNOWN, STUMP} if following in {"unknown", "stump"} else {BEHIND}
        result = tuple((i, rows[i]) for i, verdict in verdicts.items() if verdict in refusing)
        return set_worker(state, w, worker._replace(step=following, result=result))
    nonces = set(state.postgres.nonces)
    for i, read in worker.snapshot:
        nonces.update(read.nonces)
        if verdicts[i] in WRITTEN or verdicts[i] == WENT_BACK:
            rows = replaced(rows, i, _row(read, rows[i], worker.seal))
    remembered = max(state.postgres.redis_sweeps, worker.sweeps)
    if wrong == "a laid core is saved like others":
        remembered = state.postgres.redis_sweeps
    postgres = state.postgres._replace(
        rows=rows, nonces=tuple(sorted(nonces)), redis_sweeps=remembered
    )
    state = state._replace(postgres=postgres)
    result = tuple((i, rows[i]) for i, _ in worker.snapshot)
    return set_worker(state, w, worker._replace(step="committed", result=result))


def verdicts_of(state: State, w: int, wrong: str) -> dict[int, str]:
    """Return what the fence says of each member of a snapshot."""
    worker, rows = state.workers[w], state.postgres.rows
    if worker.old or wrong == "only compare numbers":
        return {i: _compare_numbers(read, rows[i]) for i, read in worker.snapshot}
    verdicts: dict[int, str] = {}
    for i, read in worker.snapshot:
        if i < state.size:
            verdicts[i] = decide(read, worker.seal, rows[i], worker.settling, wrong)
        else:
            verdicts[i] = decide_session(read, worker.seal, rows[i], wrong)
    if wrong == "no fence":
        return dict.fromkeys(verdicts, ACCEPTED)
    if wrong == "the live side wins":
        verdicts = {i: ACCEPTED if v == UNKNOWN else v for i, v in verdicts.items()}
    if wrong == "PostgreSQL back is Redis back":
        verdicts = {i: UNKNOWN if v == WENT_BACK else v for i, v in verdicts.items()}
    return verdicts


def _compare_numbers(read: Hash, row: Row) -> str:
    """Decide as a worker from before the upgrade does."""
    if not row.exists:
        return NEW
    if row.deleted:
        return GONE
    complete = set(row.changes) <= set(read.changes) and read.items == row.items
    if read.saved is None and not complete:
        return STUMP
    if row.version == read.version - 1 and content(read) == content(row):
        return UNCHANGED
    return ACCEPTED if row.version < read.version else BEHIND


def _is_same(state: State, w: int) -> bool:
    rows = state.postgres.rows
    return all(
        rows[i].sealed and not rows[i].deleted and content(read) == content(rows[i])
        for i, read in state.workers[w].snapshot
    )


def _row(read: Hash, before: Row, seal: int) -> Row:
    """Return the row that a save writes; one from before the upgrade leaves the seal as it is."""
    return Row(
        read.items,
        read.changes,
        read.version,
        seal or before.seal,
        read.version if seal else before.seal_version,
        read.in_session,
        read.closed,
        exists=True,
    )


def acknowledge(state: State, w: int, wrong: str) -> State:
    """End the claims that are still ours, and the ties that no change has renewed since."""
    worker = state.workers[w]
    rows, tokens = dict(worker.result), dict(worker.claims)
    first_is_ours = is_ours(state, *worker.claims[0])
    for i, read in worker.snapshot:
        old = state.redis.members[i]
        ours = is_ours(state, i, tokens[i]) if i < state.size else first_is_ours
        ours = ours or wrong == "acknowledge without token"
        new = _durable(old, read, rows[i], worker, ours, wrong) if old.loaded else old
        if i >= state.size:
            if new.dirty:  # its row is ahead of it: the first character is marked for it
                anchor = state.redis.members[worker.claims[0][0]]
                state = put(state, worker.claims[0][0], anchor._replace(dirty=True))
            new = new._replace(dirty=False)
        elif ours:
            dirty = new.dirty and wrong != "unmark after the save"
            new = new._replace(token=0, dirty=dirty, quarantined=False)
        state = put(state, i, new)
    unchanged = [e for e in worker.entries if e in state.redis.entries]
    if wrong == "untie whatever has been tied since":
        known = {(e.tie, e.member) for e in worker.entries}
        unchanged = [e for e in state.redis.entries if (e.tie, e.member) in known]
    if wrong == "drop the whole tie" and unchanged:
        ties = {entry.tie for entry in worker.entries}
        unchanged = [e for e in state.redis.entries if e.tie in ties]
    state = untie(state, unchanged)
    if first_is_ours and state.size in rows and rows[state.size].closed:
        state = clear_closed(state, rows)
    return set_worker(state, w, Worker())


def _durable(old: Hash, read: Hash, row: Row, worker: Worker, ours: bool, wrong: str) -> Hash:
    """Take in what is in PostgreSQL."""
    if row.deleted:
        return old
    words = old.seals or ()
    nonces = tuple(nonce for nonce in old.nonces if nonce not in read.nonces)
    new = old._replace(nonces=nonces)
    if worker.seal and row.sealed:
        if row.seal in words:
            note = (DELETED,) if DELETED in words[: words.index(row.seal)] else ()
            words = note + words[words.index(row.seal) :]
        elif ours and (worker.seal in words or wrong == "adopt what was forgotten"):
            words = (row.seal,)
        else:
            behind = row.version > (old.saved or 0)
            return old._replace(dirty=old.dirty or behind)
    withdraws = ours or wrong == "withdraw without claim"
    if withdraws and worker.seal and not (row.sealed and row.seal == worker.seal):
        words = withdrawn(words, worker.seal)
    new = new._replace(seals=words or None)
    if ours and new.version == read.version != row.version:
        new = new._replace(version=row.version)
    return new._replace(saved=max(new.saved or 0, row.version) if not ours else row.version)


def reseal(state: State, w: int, wrong: str) -> State:
    """Write the newest seal of a full list into the row, so that older commits are refused."""
    worker, rows = state.workers[w], state.postgres.rows
    result = []
    for i, read in worker.snapshot:
        words, row = read.seals or (), rows[i]
        if not row.exists or row.deleted:
            return set_worker(state, w, worker._replace(step="quarantine"))
        newest = words[-1] if wrong != "reseal with the oldest" else words[0]
        if row.seal in words:
            rows = replaced(rows, i, row._replace(seal=newest, seal_version=row.version))
        result.append((i, Row(seal=newest)))
    if wrong == "cut without a reseal":
        rows = state.postgres.rows
    state = state._replace(postgres=state.postgres._replace(rows=rows))
    return set_worker(state, w, worker._replace(step="resealed", result=tuple(result)))


def cut(state: State, w: int, _wrong: str) -> State:
    """Cut the lists to the seals that the rows have now, and begin again."""
    worker = state.workers[w]
    if not all(is_ours(state, *claimed) for claimed in worker.claims):
        return set_worker(release(state, w, withdraw=False), w, Worker())
    for i, row in worker.result:
        old = state.redis.members[i]
        notes = tuple(word for word in old.seals or () if word in {DELETED, LAID})
        state = put(state, i, old._replace(seals=(*notes, row.seal)))
    return set_worker(release(state, w, withdraw=False), w, Worker())


def commit_late(state: State, w: int, wrong: str) -> State:
    return set_worker(commit(state, w, wrong), w, Worker())


NEXT = {
    "claimed": ("takes its snapshot", snapshot),
    "read": ("commits", commit),
    "late": ("commits after all", commit_late),
    "committed": ("acknowledges", acknowledge),
    "unknown": ("reads the rows", revert.plan),
    "planned": ("reverts", revert.revert),
    "stump": ("compares the counters", revert.check),
    "checked": ("lays the stump over its row", revert.lay),
    "behind": ("raises the version", revert.raise_version),
    "back": ("says that PostgreSQL went back", revert.note_postgres_back),
    "quarantine": ("quarantines", revert.quarantine),
    "full": ("reseals the rows", reseal),
    "resealed": ("cuts the lists", cut),
}
"""What a worker does next, if nothing disturbs it."""


def advance(state: State, w: int, wrong: str) -> tuple[str, State]:
    name, step = NEXT[state.workers[w].step]
    return name, step(state, w, wrong)
