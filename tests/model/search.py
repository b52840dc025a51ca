"""Searches a model: visits every reachable state, breadth first, so the first way is shortest."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from tests.model.invariants import OF_STATES, OF_STEPS
from tests.model.state import FIRST_NAME, State
from tests.model.steps import steps


class Found(NamedTuple):
    """What a search found: how many states, and the shortest way to a broken invariant, if any."""

    states: int
    broken: str = ""
    way: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.states} states; " + (f"broken: {self.broken}" if self.broken else "fine")]
        return "\n".join([*lines, *(f"{n:3}. {step}" for n, step in enumerate(self.way, 1))])


def canonical(state: State) -> State:
    """Return the same state with its names counted on without a gap: only their order matters."""
    names = sorted(frozenset().union(*map(_names, _parts(state))))
    workers = tuple(sorted(state.workers, key=repr)) if len(state.workers) > 1 else state.workers
    clock = FIRST_NAME + len(names)
    state = state._replace(clock=clock, workers=workers)
    if not names or names[-1] == clock - 1:
        return state
    new = {name: FIRST_NAME + rank for rank, name in enumerate(names)}
    state = _renamed(state._replace(clock=0), new)
    workers = tuple(sorted(state.workers, key=repr))
    return state._replace(clock=clock, workers=workers)


def _parts(state: State) -> tuple[Any, ...]:
    redis, then = state.redis, state.redis_then
    return (
        *redis.members,
        redis.entries,
        redis.dropped,
        state.postgres,
        *state.workers,
        state.facts,
        state.reader,
        state.copy,
        then,
        state.postgres_then,
    )


@cache
def _names(part: Any) -> frozenset[int]:
    if isinstance(part, tuple):
        return frozenset().union(*map(_names, part))
    return frozenset((part,)) if isinstance(part, int) and part >= FIRST_NAME else frozenset()


def _renamed(part: Any, new: dict[int, int]) -> Any:
    """Return a part of a state with other names."""
    if isinstance(part, tuple):
        if not _names(part):
            return part
        values = [_renamed(one, new) for one in part]
        return part._make(values) if hasattr(part, "_make") else tuple(values)
    return new.get(part, part) if isinstance(part, int) else part


def search(first: State, wrong: str = "") -> Found:
    """Visit every state once; stop at the first that breaks an invariant."""
    first = canonical(first)
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    layer = [first]
    while layer:
        following = []
        for state in layer:
            for name, raw in steps(state, wrong):
                new = canonical(raw)
                invariants = OF_STEPS if new in came_from else OF_STEPS + OF_STATES
                broken = next((i.__name__ for i in invariants if not i(state, raw, wrong)), "")
                if broken:
                    return Found(len(came_from), broken, (*way(came_from, state), name))
                if new in came_from:
                    continue
                came_from[new] = (state, name)
                following.append(new)
        layer = following
    return Found(len(came_from))


def way(came_from: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    """Return the names of the steps that lead to a state."""
    names: list[str] = []
    while step := came_from[state]:
        state, name = step
        names.append(name)
    return tuple(reversed(names))
