"""What the sweep sends: messages that expire with their lease and keep no result."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery import Celery

from statesync import Settings
from statesync.embedded.stack import Stack
from tests.acceptance.test_contract import bare_write


@pytest.mark.parametrize(("dirty", "messages"), [(100, 100), (101, 1)])
def test_the_sweeps_messages_expire_and_keep_no_result(
    stack: Stack,
    settings: Settings,
    raw: Any,
    celery_setup_app: Celery,
    dirty: int,
    messages: int,
) -> None:
    worker = stack.start("sync-only", "worker", "-Q", "sync", "-c", "1", "--loglevel", "INFO")
    stack.wait_worker(worker)
    for i in range(1, dirty + 1):
        bare_write(raw, settings, i, state="exploration")
    result = celery_setup_app.send_task("statesync.sync_dirty", queue="sync")
    assert result.get(timeout=60)["claimed"] == dirty
    worker.kill()
    with redis.Redis.from_url(settings.redis_url.replace("db=0", "db=1")) as broker:
        sent = [json.loads(text)["headers"] for text in broker.lrange("backup", 0, -1)]
    assert len(sent) == messages
    latest = datetime.now(UTC) + timedelta(seconds=settings.lease_seconds)
    told = [f"character {i}" for i in range(1, dirty + 1)] if messages > 1 else ["101 characters"]
    assert sorted(headers["argsrepr"] for headers in sent) == sorted(told)
    for headers in sent:
        assert headers["ignore_result"] is True
        assert datetime.fromisoformat(headers["expires"]) <= latest
