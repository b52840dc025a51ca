"""Owns how contestants are compared: in turns, by medians and ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["Contest", "Result", "compete"]


@dataclass(frozen=True, slots=True)
class Contest:
    """What is compared; each contestant does its work once and returns its figure."""

    name: str
    unit: str
    contestants: Mapping[str, Callable[[], float]]
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of every round, by contestant."""

    name: str
    unit: str
    figures: dict[str, list[float]]
    higher_is_better: bool

    def rows(self) -> Iterator[tuple[str, float, float, float, dict[str, float]]]:
        """Give contestant, median, lowest, highest, and how it does beside each other one.

        A ratio above 1 is better, whichever way the unit counts.
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


def compete(contest: Contest, rounds: int) -> Result:
    """Let the contestants take turns: a round to warm up, then those that count."""
    figures: dict[str, list[float]] = {who: [] for who in contest.contestants}
    for turn in range(rounds + 1):
        for who, work in contest.contestants.items():
            figure = work()
            if turn:
                figures[who].append(figure)
    return Result(contest.name, contest.unit, figures, contest.higher_is_better)
