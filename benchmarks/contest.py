"""Owns how contestants are compared: in turns, by medians and ratios."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

__all__ = ["Contest", "Contests", "Result", "compete"]


@dataclass(frozen=True, slots=True)
class Contest:
    """What is compared. Each contestant does its work once and returns its figure, or several by
    unit where one run shows more than one thing."""

    name: str
    unit: str
    contestants: Mapping[str, Callable[[], float | Mapping[str, float]]]


Contests = Generator[Contest, None, None]
"""A benchmark: what it sets up for a contest is there until the next one is asked for."""


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of every round, by contestant."""

    name: str
    unit: str
    figures: dict[str, list[float]] = field(default_factory=dict)

    @property
    def higher_is_better(self) -> bool:
        """Whether it is a rate; everything else is a cost."""
        return self.unit.endswith("/s")

    def rows(self) -> Iterator[tuple[str, float, float, float, dict[str, float]]]:
        """Give contestant, median, lowest, highest, and how it does beside each other one.

        A ratio above 1 is better, whichever way the unit counts. Nothing has a ratio to 0.
        """
        medians = {who: median(values) for who, values in self.figures.items()}
        for who, values in self.figures.items():
            mine = medians[who]
            ratios = {
                other: mine / theirs if self.higher_is_better else theirs / mine
                for other, theirs in medians.items()
                if other != who and mine and theirs
            }
            yield who, mine, min(values), max(values), ratios

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "contestants": {
                who: {"median": mid, "rounds": self.figures[who], "ratios": ratios}
                for who, mid, _, _, ratios in self.rows()
            },
        }


def compete(
    contest: Contest, rounds: int, progress: Callable[[str], object] = lambda _: None
) -> list[Result]:
    """Let the contestants take turns: a round to warm up, then those that count.

    Returns a result for each unit.
    """
    results: dict[str, Result] = {}
    for turn in range(rounds + 1):
        for who, work in contest.contestants.items():
            progress(f"{contest.name}: {who}, {f'round {turn} of {rounds}' if turn else 'warm-up'}")
            made = work()
            if turn:
                for unit, figure in _by_unit(contest.unit, made).items():
                    result = results.setdefault(unit, Result(contest.name, unit))
                    result.figures.setdefault(who, []).append(figure)
    return list(results.values())


def _by_unit(unit: str, made: float | Mapping[str, float]) -> Mapping[str, float]:
    return made if isinstance(made, Mapping) else {unit: made}
