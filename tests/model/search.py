"""Searches a model: visits every reachable state, breadth first, so the first way is shortest."""

from __future__ import annotations

from typing import NamedTuple

from tests.model.protocol import INVARIANTS, State, Worker, steps


class Found(NamedTuple):
    """What a search found: how many states, and the shortest way to a broken invariant, if any."""

    states: int
    broken: str = ""
    way: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.states} states; " + (f"broken: {self.broken}" if self.broken else "fine")]
        return "\n".join([*lines, *(f"{n:3}. {step}" for n, step in enumerate(self.way, 1))])


def canonical(state: State) -> State:
    """Return the same state with small tokens and sorted workers: only order matters."""
    used = {0}
    for character in state.characters:
        used |= {character.token, character.tie}
    for worker in state.workers:
        used.update(token for _, token in worker.claims)
    for entry in (*state.entries, *(e for w in state.workers for e in w.entries)):
        used |= {entry.tie, entry.token}
    name = {token: rank for rank, token in enumerate(sorted(used))}

    def renamed(worker: Worker) -> Worker:
        return worker._replace(
            claims=tuple((i, name[token]) for i, token in worker.claims),
            entries=frozenset(
                e._replace(tie=name[e.tie], token=name[e.token]) for e in worker.entries
            ),
        )

    return state._replace(
        characters=tuple(
            c._replace(token=name[c.token], tie=name[c.tie]) for c in state.characters
        ),
        entries=frozenset(e._replace(tie=name[e.tie], token=name[e.token]) for e in state.entries),
        workers=tuple(sorted(map(renamed, state.workers), key=repr)),
        clock=len(used),
    )


def search(first: State, wrong: str = "") -> Found:
    """Visit every state once; stop at the first that breaks an invariant."""
    first = canonical(first)
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    layer = [first]
    while layer:
        following = []
        for state in layer:
            for name, raw in steps(state, wrong):
                broken = next((i.__name__ for i in INVARIANTS if not i(state, raw, wrong)), "")
                new = canonical(raw)
                if new in came_from and not broken:
                    continue
                if broken:
                    return Found(len(came_from), broken, (*way(came_from, state), name))
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
