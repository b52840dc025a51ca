"""How long a task waits for its next try."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from statesync.errors import RedisUnavailable
from statesync.worker.tasks import _retrying


class _Task:
    """Keeps how long it is to wait."""

    def __init__(self, retries: int) -> None:
        self.request = SimpleNamespace(retries=retries)
        self.waits: list[float] = []

    def retry(self, *, exc: Exception, countdown: float) -> Exception:
        self.waits.append(countdown)
        return exc


def _fail() -> None:
    raise RedisUnavailable("away")


@pytest.mark.parametrize(("retries", "longest"), [(0, 2), (3, 16), (50, 60)])
def test_retry_waits_for_a_second_at_least(retries: int, longest: int) -> None:
    task: Any = _Task(retries)
    for _ in range(200):
        with pytest.raises(RedisUnavailable):
            _retrying(task, _fail)
    assert min(task.waits) >= 1
    assert max(task.waits) <= longest
