"""Every step that may come next."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.backup import advance, claim
from tests.model.game import game
from tests.model.groups import release
from tests.model.servers import servers
from tests.model.state import State, Step, Worker, put, set_worker, spend


def steps(state: State, wrong: str = "") -> Iterator[Step]:
    """Yield every step that may come next; ``wrong`` is the mutation to make."""
    yield from game(state, wrong)
    yield from servers(state, wrong)
    yield from _claims(state, wrong)
    for w, worker in enumerate(state.workers):
        if worker.step == "idle":
            continue
        claims = ", ".join(f"{i} by claim {token}" for i, token in worker.claims)
        name = f"the worker on {claims}"
        step, after = advance(state, w, wrong)
        yield f"{name} {step}", after
        if state.budget.crashes and worker.step != "late":
            yield f"{name} crashes", spend(set_worker(state, w, Worker()), "crashes")
        if worker.step == "late":
            yield f"{name} has committed nothing", set_worker(state, w, Worker())
        if worker.step == "read" and state.budget.doubts:
            withdraw = wrong == "withdraw at a commit in doubt"
            late = set_worker(release(state, w, withdraw=withdraw), w, worker._replace(step="late"))
            yield f"{name} gives up, its commit in doubt", spend(late, "doubts")


def _claims(state: State, wrong: str) -> Iterator[Step]:
    """Yield the end of leases, and the claims of sweeps and of the recovery."""
    idle = [w for w, worker in enumerate(state.workers) if worker.step == "idle"]
    for i in range(state.size):
        member = state.redis.members[i]
        if member.token and state.budget.expiries:
            requeued = member._replace(token=0, dirty=True)
            yield f"lease on {i} ends", spend(put(state, i, requeued), "expiries")
        claimable = member.loaded and member.dirty and state.redis.recovering != 1
        if claimable and idle and (not member.token or state.budget.direct):
            claimed = spend(state, "direct") if member.token else state
            yield f"a worker claims {i}", claim(claimed, idle[0], i, wrong)
            if state.budget.old:
                old = claim(claimed, idle[0], i, wrong, old=True)
                yield f"an old worker claims {i}", spend(old, "old")
