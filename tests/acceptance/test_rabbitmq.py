"""RabbitMQ as the broker, where its package is installed."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery

from statesync import Settings
from statesync.embedded.stack import Stack
from statesync.errors import BrokerUnavailable
from statesync.game.enqueue import enqueue_backup
from statesync.hot.store import HotStore
from tests.acceptance.command_line import run, run_json
from tests.acceptance.conftest import wait_until
from tests.acceptance.test_contract import bare_write
from tests.acceptance.test_doctor import examine
from tests.rabbitmq import RabbitMQ

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("topology", ["rabbitmq"], indirect=True),
]


def test_looking_at_queues_before_the_first_worker_changes_nothing(
    settings: Settings, stack: Stack, rabbitmq: RabbitMQ
) -> None:
    rabbitmq.delete("restore", "sync", "backup")
    for _ in range(2):
        status = run_json(settings, "status")
        assert status["queues"] == {"restore": 0, "sync": 0, "backup": 0}
    stack.start_worker()


def waiting(settings: Settings) -> dict[str, int]:
    """Return how many messages wait in each queue."""
    queues: dict[str, int] = run_json(settings, "status")["queues"]
    return queues


def test_game_may_declare_the_queues_before_the_workers(
    settings: Settings,
    stack: Stack,
    rabbitmq: RabbitMQ,
    celery_setup_app: Celery,
    hot: HotStore,
    raw: Any,
) -> None:
    rabbitmq.delete("restore", "sync", "backup", "celery")
    hot.heartbeat()  # as if beat ran
    bare_write(raw, settings, 1, state="exploration")
    saved = celery_setup_app.send_task("statesync.backup_full_state", [1], queue="backup")
    not_found = celery_setup_app.send_task("statesync.restore_full_state", [2])
    bare_write(raw, settings, 3, state="exploration")
    with enqueue_backup(settings) as enqueue:
        enqueue(3)
    assert waiting(settings) == {"restore": 0, "sync": 0, "backup": 2}
    stack.start_worker()
    assert saved.get(timeout=60)["outcome"] == "saved"
    assert not_found.get(timeout=60)["outcome"] == "not_found"
    wait_until(lambda: hot.status()[:2] == (0, 0))


def test_worker_for_one_queue_may_be_the_first(
    settings: Settings, stack: Stack, rabbitmq: RabbitMQ
) -> None:
    """What has a countdown is led back to every queue, so all have to be there."""
    rabbitmq.delete("restore", "sync", "backup", "celery")
    worker = stack.start("logins", "worker", "-Q", "restore", "-c", "1", "--loglevel", "INFO")
    stack.wait_worker(worker)
    assert b"CRITICAL" not in worker.log.read_bytes()


def test_queue_that_another_application_has_declared_is_named(
    settings: Settings, stack: Stack, rabbitmq: RabbitMQ
) -> None:
    rabbitmq.delete("restore", "sync", "backup")
    with rabbitmq.connect() as connection:
        connection.channel().queue_declare("backup", durable=True, auto_delete=False)
    found = examine(settings, "broker", status=1)
    assert found["queues"]["found"].startswith("backup: ")
    assert found["messages"]["found"] == "waiting: restore 0, sync 0, backup 0"
    rabbitmq.delete("backup")
    assert examine(settings, "broker")["queues"]["status"] == "ok"
    assert rabbitmq.queues().isdisjoint({"restore", "sync", "backup"})


def test_message_expires_in_its_queue(settings: Settings, stack: Stack) -> None:
    with enqueue_backup(replace(settings, lease_seconds=1)) as enqueue:
        enqueue(1)
    wait_until(lambda: waiting(settings)["backup"] == 0)


@contextlib.contextmanager
def frozen(rabbitmq: RabbitMQ) -> Iterator[None]:
    rabbitmq.signal(signal.SIGSTOP)
    yield
    rabbitmq.signal(signal.SIGCONT)


@contextlib.contextmanager
def out_of_memory(rabbitmq: RabbitMQ) -> Iterator[None]:
    rabbitmq.control("set_vm_memory_high_watermark", "0.000001")
    yield
    rabbitmq.control("set_vm_memory_high_watermark", "0.4")


@pytest.mark.parametrize("trouble", [frozen, out_of_memory])
def test_broker_that_confirms_nothing_is_away(
    settings: Settings,
    stack: Stack,
    rabbitmq: RabbitMQ,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[RabbitMQ], contextlib.AbstractContextManager[None]],
) -> None:
    monkeypatch.setattr("statesync.game.enqueue._ANSWER_SECONDS", 1)
    with enqueue_backup(settings) as enqueue:
        enqueue(1)
        with trouble(rabbitmq), pytest.raises(BrokerUnavailable):
            enqueue(2)
        enqueue(3)


def test_demo_on_a_broker_that_does_not_answer(settings: Settings) -> None:
    shown = run(None, "demo", "--broker", "amqp://bob:hunter2@127.0.0.1:1//", status=1)
    assert "the broker: " in shown
    assert "hunter2" not in shown
    assert "STATESYNC_BROKER_URL" in run(None, "demo", "--broker", "localhost", status=2)


def test_demo_holds_and_leaves_no_queue(settings: Settings, rabbitmq: RabbitMQ) -> None:
    shown = run(None, "demo", "--broker", rabbitmq.url, "--json")
    assert json.loads(shown.splitlines()[0])["held"] is True
    assert not any("demo" in name for name in rabbitmq.queues())


class TestResults:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return replace(settings, result_url="rpc://")

    def test_come_by_the_broker(
        self, settings: Settings, stack: Stack, celery_setup_app: Celery
    ) -> None:
        stack.start_worker()
        result = celery_setup_app.send_task("statesync.restore_full_state", [1], queue="restore")
        assert result.get(timeout=60)["outcome"] == "not_found"
