"""What a game's sender puts into the broker, and what becomes of it in a forked process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from statesync import Settings
from statesync.game.enqueue import enqueue_backup

FORK = """
import os
from statesync import Settings
from statesync.game.enqueue import enqueue_backup

with enqueue_backup(Settings.from_env()) as enqueue:
    enqueue(1)
    child = os.fork()
    enqueue(2)
    if child:
        assert os.waitpid(child, 0)[1] == 0
        enqueue(3)
"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With a queue of the test's own."""
    return replace(settings, queue_prefix=settings.key_prefix)


@pytest.fixture
def broker(settings: Settings) -> Iterator[Any]:
    with redis.Redis.from_url(settings.redis_url.replace("db=0", "db=1")) as client:
        yield client
        client.delete(settings.queue("backup"))


def waiting(broker: Any, settings: Settings) -> list[dict[str, Any]]:
    """The messages in the queue, the oldest first."""
    return [json.loads(text) for text in broker.lrange(settings.queue("backup"), 0, -1)][::-1]


def test_a_message_expires_with_its_lease_and_keeps_no_result(
    settings: Settings, broker: Any
) -> None:
    with enqueue_backup(settings) as enqueue:
        enqueue(42)
    (message,) = waiting(broker, settings)
    headers = message["headers"]
    assert headers["task"] == "statesync.backup_full_state"
    assert headers["argsrepr"] == "character 42"
    assert headers["ignore_result"] is True
    latest = datetime.now(UTC) + timedelta(seconds=settings.lease_seconds)
    assert datetime.fromisoformat(headers["expires"]) <= latest


def test_parent_and_child_of_a_fork_both_send(settings: Settings, broker: Any) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FORK],
        env={**os.environ, **settings.to_env()}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    sent = [message["headers"]["argsrepr"] for message in waiting(broker, settings)]
    assert sorted(sent) == [f"character {i}" for i in (1, 2, 2, 3)]
