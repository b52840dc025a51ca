"""Owns the contests: contestants take turns, and their results are medians and ratios."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

__all__ = ["REFERENCES", "Contest", "Contests", "Figures", "Result", "ResultRow", "compete"]

Figures = float | Mapping[str, float]
"""What one turn of a contestant finds: a figure in the unit of its contest, or figures by unit."""


REFERENCES = ("floor", "naive", "empty round trips", "empty Celery")
"""How contestants are named that are not statesync: another checkout has none of its own."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Contestants by name; each call is one turn."""

    name: str
    unit: str
    contestants: Mapping[str, Callable[[], Figures]]


Contests = Generator[Contest, None, None]
"""A running benchmark: the set-up of a contest lasts until the next one is asked for."""


class ResultRow(NamedTuple):
    """How one contestant does, and beside each of the others."""

    contestant: str
    median: float
    lowest: float
    highest: float
    ratios: dict[str, float]
    """By the other's name. Above 1 is better, whichever way the unit counts."""


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of every round in one unit, by contestant."""

    name: str
    unit: str
    figures: dict[str, list[float]] = field(default_factory=dict)

    @property
    def higher_is_better(self) -> bool:
        """Whether it is a rate; everything else is a cost."""
        return self.unit.endswith("/s")

    def rows(self) -> Iterator[ResultRow]:
        """Give a row for each contestant. There is no ratio to a median of 0, nor of one."""
        medians = {name: median(values) for name, values in self.figures.items()}
        for name, values in self.figures.items():
            own = medians[name]
            ratios = {
                other: own / its if self.higher_is_better else its / own
                for other, its in medians.items()
                if other != name and own and its
            }
            yield ResultRow(name, own, min(values), max(values), ratios)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "contestants": {
                row.contestant: {
                    "median": row.median,
                    "rounds": self.figures[row.contestant],
                    "ratios": row.ratios,
                }
                for row in self.rows()
            },
        }


def compete(
    contest: Contest, rounds: int, progress: Callable[[str], object] = lambda _: None
) -> list[Result]:
    """Let the contestants take turns: a warm-up round, then those that count.

    Every other round goes in the reverse order: what the machine does meanwhile meets all alike.
    Returns a result for each unit.
    """
    results: dict[str, Result] = {}
    for turn in range(rounds + 1):
        in_order = list(contest.contestants.items())
        for contestant, take_turn in in_order if turn % 2 else reversed(in_order):
            stage = f"round {turn} of {rounds}" if turn else "warm-up"
            progress(f"{contest.name}: {contestant}, {stage}")
            figures = take_turn()
            if turn:
                _record(results, contest, contestant, figures)
    return list(results.values())


def _record(
    results: dict[str, Result], contest: Contest, contestant: str, figures: Figures
) -> None:
    by_unit = figures if isinstance(figures, Mapping) else {contest.unit: figures}
    for unit, figure in by_unit.items():
        result = results.setdefault(unit, Result(contest.name, unit))
        result.figures.setdefault(contestant, []).append(figure)
