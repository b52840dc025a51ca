"""Owns the mutations: faults made on purpose, one at a time, and the tests that have to fail then.

Each is applied to a copy of the code. A mutation that no test notices, a survivor, says that
something may break without a word.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]

_COPIED = (
    *("statesync", "migrations", "tests", "examples"),
    *("pyproject.toml", "celeryconfig.py", "alembic.ini"),
)
_TIMEOUT_SECONDS = 180
_TESTS_FAILED = 1
"""The exit status of pytest if tests ran and some failed."""


class BrokenMutation(Exception):
    """A mutation that says nothing: its text is not found once, or its tests cannot run."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """A fault, and what notices it."""

    name: str
    file: str
    """Below ``statesync``."""
    old: str
    new: str
    lost: str
    """What breaks with it."""
    tests: tuple[str, ...]
    """Below ``tests``, as pytest takes them; one of them at least has to fail."""

    def mutated(self, source: str) -> str:
        """Return ``source`` with the fault. Raises BrokenMutation."""
        count = source.count(self.old)
        if count != 1:
            raise BrokenMutation(f"{self.name}: found {count} times in {self.file}: {self.old!r}")
        return source.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one mutation."""

    mutation: Mutation
    noticed_by: str | None = None
    """The test that failed; None if the mutation survived, or is broken."""
    broken: str | None = None


def load_mutations() -> list[Mutation]:
    """Read all mutations, of every file beside this one."""
    return [
        Mutation(name, **{**entry, "tests": tuple(entry["tests"])})
        for path in sorted(Path(__file__).parent.glob("*.toml"))
        for name, entry in tomllib.loads(path.read_text()).items()
    ]


def run(mutations: Sequence[Mutation], jobs: int) -> Iterator[Result]:
    """Give the result of each mutation, as they end. Raises BrokenMutation.

    First runs all the tests without any fault: a test that fails anyway notices nothing.
    """
    with TemporaryDirectory(prefix="statesync-mutations-") as folder:
        clean = Path(folder) / "clean"
        _copy(ROOT, clean)
        tests = sorted({test for mutation in mutations for test in mutation.tests})
        status, output = _pytest(clean, tests, timeout=_TIMEOUT_SECONDS * 5)
        if status != 0:
            raise BrokenMutation(f"the tests fail without any mutation:\n{output[-3000:]}")
        with ThreadPoolExecutor(jobs) as pool:
            for done in as_completed(pool.submit(_try, clean, one) for one in mutations):
                yield done.result()


def _try(clean: Path, mutation: Mutation) -> Result:
    """Run the tests of a mutation on a copy that has it."""
    with _scratch(clean) as copy:
        path = copy / "statesync" / mutation.file
        try:
            path.write_text(mutation.mutated(path.read_text()))
        except BrokenMutation as error:
            return Result(mutation, broken=str(error))
        status, output = _pytest(copy, mutation.tests, timeout=_TIMEOUT_SECONDS)
    if status == 0:
        return Result(mutation)
    if status is None:
        return Result(mutation, noticed_by="(a test that does not end)")
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", output, re.M)
    if status != _TESTS_FAILED or not failed:
        return Result(mutation, broken=f"{mutation.name}: pytest ends with {status}: {output}")
    return Result(mutation, noticed_by=failed[1])


@contextmanager
def _scratch(clean: Path) -> Iterator[Path]:
    with TemporaryDirectory(prefix="one-", dir=clean.parent) as folder:
        copy = Path(folder) / "copy"
        _copy(clean, copy)
        yield copy


def _copy(source: Path, target: Path) -> None:
    """Copy the code, with the times of its files: Python goes on using what it has compiled."""
    target.mkdir()
    for name in _COPIED:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, target / name)
        else:
            shutil.copy2(path, target / name)


def _pytest(root: Path, tests: Sequence[str], *, timeout: float) -> tuple[int | None, str]:
    """Run tests of a copy; returns the exit status, or None if they do not end, and the output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
    if all("::" in test for test in tests):
        command += ["-m", ""]  # a test that is named is run, however slow it is
    process = subprocess.Popen(
        [*command, *(f"tests/{test}" for test in tests)],
        cwd=root,
        # To load plugins takes as long as most of the tests, and none of these needs one.
        env={**os.environ, "PYTHONPATH": str(root), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that pytest stops its servers
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        return None, ""
    return process.returncode, output
