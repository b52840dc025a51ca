"""Owns another checkout of statesync, which takes turns with this one on servers of its own.

It runs in a process of its own, ``python -m benchmarks.beside OPTIONS``, with the code of that
checkout and these benchmarks. It reads calls from stdin and answers on stdout, a line of JSON each.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from benchmarks.bench import Bench
from benchmarks.cases import load
from benchmarks.contest import REFERENCES, Contest, Contests, Figures
from benchmarks.environment import CHECKOUT, child_env
from benchmarks.servers import embedded
from statesync.errors import EmbeddedServerError, InvalidInput

__all__ = ["Beside", "beside"]

_THEIRS = ("statesync", "migrations", "celeryconfig.py", "alembic.ini")


@contextlib.contextmanager
def beside(checkout: Path, options: Mapping[str, Any]) -> Iterator[Beside]:
    """Start the process of another checkout; ``options`` are those of ``Bench``, and the delay.

    Raises InvalidInput if there is no checkout.
    """
    if not (checkout / "statesync" / "__init__.py").exists():
        raise InvalidInput(f"{checkout} is no checkout of statesync")
    with tempfile.TemporaryDirectory(prefix="statesync-beside-") as folder:
        root = Path(folder)
        (root / "benchmarks").symlink_to(CHECKOUT / "benchmarks")
        for name in _THEIRS:
            (root / name).symlink_to((checkout / name).resolve())
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", __name__, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=child_env(root),
            cwd=root,
        )
        with process:
            yield Beside(checkout.resolve().name, process)  # at the end of its stdin, it ends


class Beside:
    """The other checkout's benchmarks, contest by contest."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process

    def join(self, name: str, contests: Contests) -> Contests:
        """Give the contests of a benchmark, with the other checkout as contestants beside ours."""
        self._call("start", name)
        for contest in contests:
            if self._call("next") != contest.name:
                raise EmbeddedServerError(f"{self.name} is not at the contest {contest.name}")
            yield replace(contest, contestants=dict(self._contestants(contest)))
        self._call("next")

    def _contestants(self, contest: Contest) -> Iterator[tuple[str, Any]]:
        for name, take_turn in contest.contestants.items():
            yield name, take_turn
            if not name.startswith(REFERENCES):
                theirs = self.name if name == "statesync" else f"{name}, {self.name}"
                yield theirs, lambda name=name: self._call("turn", name)

    def _call(self, *words: str) -> Any:
        """Make the process do something, and return what it answers."""
        writer = _writer(self._process)
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(words), file=writer, flush=True)
        answer = self._process.stdout and self._process.stdout.readline()
        if not answer:
            raise EmbeddedServerError(f"the benchmarks of {self.name} ended; stderr says why")
        return json.loads(answer)


def _writer(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin  # noqa: S101 - it is a pipe
    return process.stdin


class _Answers:
    """What the other process does: a method for each call."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._contests: Contests | None = None
        self._contest: Contest | None = None

    def start(self, name: str) -> None:
        """Begin a benchmark."""
        self._contests = load(name)(self._bench)

    def next(self) -> str | None:
        """Go on to the next contest; returns its name, or None after the last."""
        self._contest = next(self._contests, None) if self._contests else None
        return self._contest.name if self._contest else None

    def turn(self, contestant: str) -> Figures:
        """Take a turn of a contestant."""
        assert self._contest  # noqa: S101 - the other process asks for a contest first
        return self._contest.contestants[contestant]()


def _answer_calls(options: dict[str, Any]) -> None:
    with (
        embedded(options.pop("delay_ms")) as place,
        contextlib.closing(Bench(place, **options)) as bench,
    ):
        answers = _Answers(bench)
        for line in sys.stdin:
            call, *words = json.loads(line)
            print(json.dumps(getattr(answers, call)(*words)), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # a terminal sends it to both processes
        _answer_calls(json.loads(sys.argv[1]))
