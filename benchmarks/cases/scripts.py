"""Owns ``scripts``: how long the scripts of a sweep hold Redis.

One process drains, so that Redis, which it waits for, has a core of its own. Each save is repeated,
since a machine takes the core away now and then: what is long in every repeat is the script's own.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from statesync import GameStateOrchestrator
from statesync.lifecycle.sweep import drain

__all__ = ["scripts"]

_DRAIN_SECONDS = 3600.0
_LOGGED_COMMANDS = 200_000
_REPEATS = 3
_SCRIPTS = (b"EVALSHA", b"EVAL", b"FCALL")


def scripts(bench: Bench) -> Contests:
    """Drain with each share of the characters in a fight."""
    for percent in bench.percents:
        bench.clear()
        with bench.orchestrator() as orchestrator:
            yield _runs(bench, orchestrator, percent)


def _runs(bench: Bench, orchestrator: GameStateOrchestrator, percent: int) -> Contest:
    def one_save() -> dict[bytes, list[int]]:
        bench.write_characters(bench.ids, fighting_percent=percent)
        with _logged(bench.client) as runs:
            drain(orchestrator, bench.settings, _DRAIN_SECONDS)
        return runs

    def turn() -> dict[str, float]:
        return _figures([one_save() for _ in range(_REPEATS)])

    name = f"scripts of a save of {len(bench.ids):,}, {percent} % in fights"
    return Contest(name, "µs", {"statesync": turn})


@contextlib.contextmanager
def _logged(client: Any) -> Iterator[dict[bytes, list[int]]]:
    """Give a dict that has, after the block, the µs of each script's runs, from the slow log."""
    changes = {"slowlog-log-slower-than": 0, "slowlog-max-len": _LOGGED_COMMANDS}
    before = {name: client.config_get(name)[name] for name in changes}
    runs: dict[bytes, list[int]] = defaultdict(list)
    for name, value in changes.items():
        client.config_set(name, value)
    client.slowlog_reset()
    try:
        yield runs
        for entry in reversed(client.slowlog_get(_LOGGED_COMMANDS)):
            command, *words = entry["command"].split(b" ", 2)
            if command.upper() in _SCRIPTS:
                runs[words[0]].append(entry["duration"])
    finally:
        for name, value in before.items():
            client.config_set(name, value)
        client.slowlog_reset()


def _figures(saves: Sequence[dict[bytes, list[int]]]) -> dict[str, float]:
    """Return figures of runs, each the shortest of the repeats.

    The first run of a script does the same in each of them.
    """
    shortest = [
        min(same)
        for script in saves[0]
        for same in zip(*(runs.get(script, ()) for runs in saves), strict=False)
    ]
    return {
        "µs, the longest run": max(shortest),
        "µs, the median run": median(shortest),
        "runs of scripts": len(shortest),
    }
