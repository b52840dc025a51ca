"""What Celery says and other lines say is left out; what a line tells of its task."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

import pytest
from celery import beat as celery_beat
from celery.app import trace
from celery.worker import request
from celery.worker.consumer import connection, consumer
from flower import events
from kombu import message as kombu_message
from kombu import mixins
from kombu.asynchronous import hub, timer
from redis.exceptions import OutOfMemoryError

from statesync.worker import digest
from statesync.worker.digest import broker_answers, set_up_digest
from statesync.worker.logs import task_fields

ABOUT = {"id": "4-2", "name": "statesync.sync_slice"}


@pytest.fixture(autouse=True)
def _digesting(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    set_up_digest()
    caplog.set_level(logging.INFO)
    yield
    broker_answers()
    digest._told_at.clear()
    for name in digest._LOGGERS:
        logging.getLogger(name).filters.clear()


def says(logger: str, level: int, message: str, *args: Any, **extra: Any) -> None:
    logging.getLogger(logger).log(level, message, *args, extra=extra)


def test_an_outage_of_the_broker_is_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    lost = logging.getLogger("celery.worker.consumer.consumer")
    lost.warning(digest._LOST, exc_info=ConnectionError("reset"))
    for _ in range(5):
        says("celery.worker.consumer.consumer", 40, digest._NOT_CONNECTED, "redis://", "away", "")
    says("celery.backends.redis", 40, digest._RESULTS_LOST, 1, 20, "in 1 s")
    says("celery.worker.consumer.connection", 20, "Connected to %s", "redis://")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "trouble begins: the broker: reset"),
        ("WARNING", "trouble ends: the broker works again, after 0 s"),
        ("INFO", "Connected to redis://"),
    ]


@pytest.mark.parametrize(
    ("logger", "message", "args"),
    [
        ("celery.beat", digest._BEAT_LOST, ("away", 2)),
        ("celery.beat", digest._BEAT_FAILED, ("away", "stack")),
        ("flower.events", digest._EVENTS_LOST, ("away", 1)),
    ],
)
def test_so_it_is_for_beat_and_flower(
    caplog: pytest.LogCaptureFixture, logger: str, message: str, args: tuple[Any, ...]
) -> None:
    for _ in range(3):
        says(logger, logging.ERROR, message, *args)
    assert caplog.messages == ["trouble begins: the broker: away"]
    broker_answers()
    assert len(caplog.messages) == 2


def test_a_task_is_told_of_when_it_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    expected = {**ABOUT, "exc": "away", "description": "raised expected"}
    unexpected = expected | {"description": "raised unexpected"}
    lines: list[tuple[str, str, dict[str, Any]]] = [
        ("celery.worker.strategy", trace.LOG_RECEIVED, ABOUT),
        ("celery.app.trace", trace.LOG_RETRY, {**ABOUT, "exc": "away"}),
        ("celery.app.trace", trace.LOG_FAILURE.strip(), expected),
        ("celery.app.trace", trace.LOG_FAILURE.strip(), unexpected),
        ("celery.app.trace", trace.LOG_SUCCESS, {**ABOUT, "runtime": 1, "return_value": "{}"}),
    ]
    for logger, message, data in lines:
        logging.getLogger(logger).info(message, data, extra={"data": data})
    says("celery.worker.request", 20, "Discarding revoked task: %s[%s]", ABOUT["name"], "4-2")
    says("celery.beat", 20, digest._BEAT_SENDS, "sync-slice", ABOUT["name"])
    assert caplog.messages == [
        "Task statesync.sync_slice[4-2] raised unexpected: away",
        "Task statesync.sync_slice[4-2] succeeded in 1s: {}",
    ]


def test_results_that_have_nowhere_to_go_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    says("py.warnings", 30, "%s", f"RuntimeWarning: {digest._LOST_IN_CHILD}: …\nTraceback …")
    for _ in range(3):
        says("celery.worker.request", 40, digest._TASK_LOST, ConnectionError("away"))
    says("celery.worker.request", 40, digest._TASK_LOST, ValueError("a defect"))
    assert [r.levelname for r in caplog.records] == ["WARNING", "ERROR"]
    assert "results are not kept" in caplog.messages[0]


def test_each_try_to_connect_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    name = "celery.worker.consumer.consumer"
    says(name, 20, f"{digest._PREFETCH} to 1 to avoid over-fetching")
    says(name, 50, digest._OFTEN, RuntimeError("5 in 1s"))
    assert not caplog.messages


def test_what_a_worker_sends_by_itself_and_is_refused_names_the_broker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = OutOfMemoryError("command not allowed when used memory > 'maxmemory'")
    for error in (full, full, ConnectionError("away"), KeyError("a defect")):
        says("kombu.asynchronous.hub", 40, digest._TIMER_FAILED, error)
    assert caplog.messages == [f"the broker refuses what this process sends: {full}", ANY]
    assert "a defect" in caplog.messages[1]


def test_what_is_not_acknowledged_is_the_brokers_outage(caplog: pytest.LogCaptureFixture) -> None:
    for text in digest._NOT_ACKNOWLEDGED:
        says("celery.worker.request", 50, text, "4-2", "away")
    assert caplog.messages == ["trouble begins: the broker: away"]


@pytest.mark.parametrize(("error", "is_told"), [("OperationalError('away')", 0), ("KeyError()", 1)])
def test_a_retry_that_cannot_be_sent_is_the_brokers_outage(
    caplog: pytest.LogCaptureFixture, error: str, is_told: int
) -> None:
    data = {**ABOUT, "description": "rejected", "exc": f"Reject({error}, requeue=False)"}
    logging.getLogger("celery.app.trace").warning(digest._REJECTED, data, extra={"data": data})
    assert len(caplog.messages) == is_told


def test_what_python_prints_has_words(caplog: pytest.LogCaptureFixture) -> None:
    for text in ("Traceback (most recent call last):", "  ", "^", "KeyError"):
        says("celery.redirected", 30, text)
    assert caplog.messages == ["Traceback (most recent call last):", "KeyError"]


def test_tasks_of_others_are_left_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    data = {"id": "1", "name": "game.mail"}
    logging.getLogger("celery.worker.strategy").info(trace.LOG_RECEIVED, data, extra={"data": data})
    says("celery.worker.request", 20, "Discarding revoked task: %s[%s]", "game.mail", "1")
    assert len(caplog.messages) == 2


def test_at_debug_all_is_told(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    says("celery.beat", 20, digest._BEAT_SENDS, "sync-slice", ABOUT["name"])
    says("py.warnings", 30, "%s", f"… {digest._CANCELLING} …")
    assert len(caplog.messages) == 2


def test_the_lines_are_those_of_celery_and_flower() -> None:
    sources = {
        celery_beat: (digest._BEAT_SENDS, "beat: Connection error: %s. ", r"Message Error: %s\n%s"),
        request: (digest._EXPIRED, digest._TASK_LOST),
        kombu_message: digest._NOT_ACKNOWLEDGED,
        trace: (digest._LOST_IN_CHILD,),
        connection: (digest._CONNECTED,),
        consumer: (digest._OFTEN, digest._PREFETCH),
        hub: (digest._TIMER_FAILED,),
        timer: (digest._TIMER_FAILED,),
        mixins: (digest._CONNECTED,),
        events: ("Failed to capture events: '%s', ", "trying again in %s seconds."),
    }
    for module, texts in sources.items():
        source = inspect.getsource(module)
        assert all(text in source for text in texts), module


def test_a_line_about_a_task_has_its_name_id_and_duration() -> None:
    made = logging.LogRecord("x", 20, "f", 1, "m", (), None)
    made.data = {**ABOUT, "runtime": 0.01234}
    assert task_fields(made) == {
        "task": "statesync.sync_slice",
        "task_id": "4-2",
        "duration_ms": 12.3,
    }
