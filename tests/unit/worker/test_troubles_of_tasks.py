"""What a task tells of the servers that it needs, and of itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from statesync.errors import DatabaseUnavailable, InvalidCharId, NotMigrated
from statesync.hot.commands.troubles import Work
from statesync.worker import tasks
from statesync.worker.logs import is_idle, task_fields

AWAY = DatabaseUnavailable("PostgreSQL at db: away")


class Told:
    """Keeps what is told instead of telling Redis."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Work]] = []
        self.refused: set[Work] = set()

    def failed(self, work: Work, _: Exception) -> None:
        self.calls.append(("failed", work))

    def succeeded(self, work: Work) -> None:
        self.calls.append(("succeeded", work))

    def is_refused(self, work: Work) -> bool:
        return work in self.refused


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    made = Told()
    monkeypatch.setattr(tasks, "troubles", lambda _: made)
    return made


@pytest.mark.parametrize(
    ("task", "error", "work"),
    [
        (tasks.sync_slice, AWAY, Work.SWEEP),
        (tasks.sync_slice, NotMigrated("run `statesync migrate`"), Work.CLAIM),
        (tasks.backup_batch, NotMigrated("run `statesync migrate`"), Work.BACKUP),
    ],
)
@pytest.mark.parametrize("hook", ["on_failure", "on_retry"])
def test_a_server_is_the_cause(
    told: Told,
    hook: str,
    task: Any,
    error: Exception,
    work: Work,
    caplog: pytest.LogCaptureFixture,
) -> None:
    getattr(task, hook)(error, "1", (), {}, None)
    assert told.calls == [("failed", work)]
    assert not caplog.messages, "whoever is told says it"


def test_a_sweep_that_finds_nothing_does_not_tell_that_a_right_is_there(told: Told) -> None:
    for claimed in (0, 3):
        result = {"requeued": 0, "claimed": claimed, "left": 0, "comparing": False}
        tasks.sync_slice.on_success(result, "1", (), {})
    sweep, claim = ("succeeded", Work.SWEEP), ("succeeded", Work.CLAIM)
    assert told.calls == [sweep, sweep, claim]


def test_a_sweep_of_what_cannot_be_saved_is_no_line(told: Told) -> None:
    told.refused.add(Work.BACKUP)
    task = tasks.sync_slice
    task.push_request(id="1", args=(), kwargs={})
    try:
        result = {"requeued": 0, "claimed": 80, "left": 400, "comparing": False}
        task.on_success(result, "1", (), {})
        assert vars(task.request)["statesync_noted"][0] is True
    finally:
        task.pop_request()


def test_a_message_is_the_cause(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    tasks.restore_full_state.on_failure(InvalidCharId("'x' is no id"), "1", ("x",), {}, None)
    assert not told.calls
    ((_, level, message),) = caplog.record_tuples
    assert (level, message) == (logging.WARNING, "statesync.restore_full_state: 'x' is no id")


@pytest.mark.parametrize(
    ("task", "result", "is_success"),
    [
        (tasks.sync_slice, {"requeued": 0, "claimed": 0, "left": 0, "comparing": False}, True),
        (tasks.scrub, {"cursor": 0}, True),
        (tasks.backup_batch, {"saved": 3, "released": 1}, True),
        (tasks.backup_batch, {"released": 3}, False),
        (tasks.backup_batch, {"superseded": 3, "missing": 1}, False),
        (tasks.backup_full_state, {"char_id": 1, "outcome": "unchanged"}, True),
        (tasks.restore_full_state, {"char_id": 1, "outcome": "live"}, False),
        (tasks.restore_batch, {"live": 1, "not_found": 1}, True),
    ],
)
def test_only_what_needed_all_servers_is_a_success(
    told: Told, task: Any, result: dict[str, Any], is_success: bool
) -> None:
    task.on_success(result, "1", (), {})
    assert bool(told.calls) is is_success


def test_a_line_tells_what_became_of_a_character(told: Told) -> None:
    task = tasks.backup_full_state
    task.push_request(id="1", args=(7,), kwargs={"realm": "eu"})
    try:
        result = {"char_id": 7, "outcome": "saved", "version": 3, "error": None, "sessions": {}}
        task.on_success(result, "1", (7,), {"realm": "eu"})
        assert vars(task.request)["statesync_noted"] == (False, {"outcome": "saved", "version": 3})
    finally:
        task.pop_request()
    made = logging.LogRecord("x", 20, "f", 1, "m", (), None)
    assert task_fields(made) == {}, "no task runs"
    assert not is_idle()


@pytest.mark.parametrize(
    ("task", "args", "result", "is_idle"),
    [
        (tasks.sync_slice, (), {"requeued": 0, "claimed": 0, "left": 3, "comparing": False}, True),
        (tasks.sync_slice, (), {"requeued": 1, "claimed": 0, "left": 0, "comparing": False}, False),
        (tasks.backup_full_state, (7, 99), {"outcome": "saved"}, True),
        (tasks.backup_full_state, (7, 99), {"outcome": "conflict"}, False),
        (tasks.backup_full_state, (7,), {"outcome": "saved"}, False),
        (tasks.backup_batch, ([[7, 99]],), {"saved": 1}, False),
    ],
)
def test_what_a_sweep_counts_is_no_line_of_its_own(
    told: Told, task: Any, args: tuple[Any, ...], result: dict[str, Any], is_idle: bool
) -> None:
    task.push_request(id="1", args=args, kwargs={})
    try:
        task.on_success(result, "1", args, {})
        assert vars(task.request)["statesync_noted"][0] is is_idle
    finally:
        task.pop_request()
