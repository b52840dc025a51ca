"""Owns which lines of Celery and Flower are left out, since other lines say what they say.

A task is one line, when it has ended. What a server's trouble does to each task is none: the
trouble itself is told once when it begins and once when it ends. At the level DEBUG all stay.
"""

from __future__ import annotations

import logging
import math
import re
import time
from typing import Any

from celery.app import trace
from celery.backends import redis
from celery.worker.consumer import consumer

from statesync.errors import BrokerUnavailable
from statesync.lifecycle.troubles import Outages
from statesync.worker.logs import is_idle

__all__ = ["broker_answers", "set_up_digest"]

log = logging.getLogger(__name__)

_LOST = vars(consumer)["CONNECTION_RETRY"]
_NOT_CONNECTED = vars(consumer)["CONNECTION_ERROR"]
_RESULTS_LOST = vars(redis)["E_LOST"].strip()
_CONNECTED = "Connected to %s"
_BEAT_LOST = "beat: Connection error: %s. Trying again in %s seconds..."
_BEAT_SENDS = "Scheduler: Sending due task %s (%s)"
_EVENTS_LOST = "Failed to capture events: '%s', trying again in %s seconds."
_BEAT_FAILED = "Message Error: %s\n%s"
_OF_A_TASK = (trace.LOG_RECEIVED, trace.LOG_FAILURE.strip(), trace.LOG_RETRY)
_EXPIRED = "Discarding revoked task: %s[%s]"
_NOT_ACKNOWLEDGED = ("Couldn't ack %r, reason:%r", "Couldn't reject %r, reason: %r")
_TASK_LOST = "Task handler raised error: %r"
_LOST_IN_CHILD = "Exception raised outside body"
"""The same as a process of the pool says it."""
_AWAY = re.compile("ConnectionError|TimeoutError|OperationalError")
_QUIET_SECONDS = 60
_REJECTED = trace.LOG_REJECTED.strip()
_TIMER_FAILED = "Error in timer: %r"
"""What a worker sends by itself, such as its events, was refused."""
_OF_BROKERS = ("redis.", "amqp.", "kombu.")
"""Whose errors are those of a broker."""
_OFTEN = "Frequent restarts detected: %r"
_PREFETCH = "Temporarily reducing the prefetch count"
"""How the line begins that each try to connect writes while a task runs."""
_CANCELLING = "worker_cancel_long_running_tasks_on_connection_loss"
"""Celery explains this setting whenever the broker goes away; ours is chosen."""
_OUTAGES = (
    *_NOT_ACKNOWLEDGED,
    *(_LOST, _NOT_CONNECTED, _RESULTS_LOST),
    *(_BEAT_LOST, _BEAT_SENDS, _BEAT_FAILED, _EVENTS_LOST, _OFTEN),
)
"""What is said at each try, and each time that beat sends a message."""
_LOGGERS = (
    *("celery.app.trace", "celery.worker.strategy", "celery.beat", "celery.backends.redis"),
    *("celery.worker.consumer.consumer", "celery.worker.consumer.connection", "py.warnings"),
    *("celery.worker.request", "flower.events", "kombu.mixins", "celery.redirected"),
    *("kombu.asynchronous.hub", "kombu.asynchronous.timer"),
)

_broker = Outages()
"""What the main process of a worker, beat or Flower knows of the broker."""
_MESSAGES = "messages"
"""What a broker refuses."""


_told_at: dict[str, float] = {}
"""When this process has told what nothing tells the end of."""


def set_up_digest() -> None:
    """Leave such lines out of the log of this process."""
    for name in _LOGGERS:
        logging.getLogger(name).filters[:] = [_digest]


def broker_answers() -> None:
    """Take in that the broker has taken a message, or is connected."""
    _broker.succeeded(_MESSAGES)


def _digest(record: logging.LogRecord) -> bool:
    """Return whether a line is written."""
    _look_for_outage(record)
    return not _is_told_elsewhere(record) or logging.getLogger().isEnabledFor(logging.DEBUG)


def _look_for_outage(record: logging.LogRecord) -> None:
    """Take in what a line says of the broker."""
    args: Any = record.args
    if record.msg == _LOST and record.exc_info:
        _broker_failed(record.exc_info[1])
    elif record.msg == _NOT_CONNECTED:
        _broker_failed(args[1])
    elif record.msg in (_BEAT_LOST, _BEAT_FAILED, _EVENTS_LOST):
        _broker_failed(args[0])
    elif record.msg in _NOT_ACKNOWLEDGED:
        _broker_failed(args[1])
    elif _is_result_lost(record):
        _tell_seldom("results are not kept, and who waits for one waits in vain: %r", args[0])
    elif _is_timer_refused(record):
        _tell_seldom("the broker refuses what this process sends: %s", args[0])
    elif record.msg == _CONNECTED:
        broker_answers()


def _broker_failed(error: object) -> None:
    _broker.failed(_MESSAGES, BrokerUnavailable(f"the broker: {error}"))


def _tell_seldom(message: str, error: object) -> None:
    if time.monotonic() > _told_at.get(message, -math.inf) + _QUIET_SECONDS:
        _told_at[message] = time.monotonic()
        log.warning(message, error)


def _is_timer_refused(record: logging.LogRecord) -> bool:
    """Return whether a broker has refused what a worker sends by itself."""
    if record.msg != _TIMER_FAILED or not isinstance(record.args, tuple):
        return False
    error = record.args[0]
    return isinstance(error, OSError) or type(error).__module__.startswith(_OF_BROKERS)


def _is_result_lost(record: logging.LogRecord) -> bool:
    """Return whether a task has done its work, and its result has nowhere to go."""
    args: Any = record.args
    return record.msg == _TASK_LOST and bool(_AWAY.search(repr(args[0])))


def _is_told_elsewhere(record: logging.LogRecord) -> bool:
    if record.name == "py.warnings":
        text = record.getMessage()
        return _CANCELLING in text or _LOST_IN_CHILD in text
    if record.name == "celery.redirected":  # a traceback that Python prints, piece by piece
        return not re.search(r"\w", record.getMessage())
    if record.msg == _EXPIRED and isinstance(record.args, tuple):
        return _is_ours(record.args[0])
    data = record.__dict__.get("data")
    if isinstance(data, dict) and _is_ours(data.get("name")):
        return _is_end_told_elsewhere(record, data)
    if str(record.msg).startswith(_PREFETCH) or _is_timer_refused(record):
        return True
    return _is_result_lost(record) or record.msg in _OUTAGES


def _is_ours(task: object) -> bool:
    return str(task).startswith("statesync.")


def _is_end_told_elsewhere(record: logging.LogRecord, data: dict[str, object]) -> bool:
    """Return whether a line on one of our tasks is not the one that tells of its end."""
    if record.msg == trace.LOG_SUCCESS:
        return is_idle()
    if record.msg == _REJECTED:  # a retry that cannot be sent
        return bool(_AWAY.search(str(data.get("exc"))))
    return record.msg in _OF_A_TASK and data.get("description") in (None, "raised expected")
