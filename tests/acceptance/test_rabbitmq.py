"""RabbitMQ as the broker, where its package is installed."""

from __future__ import annotations

import pytest

from statesync import Settings
from statesync.embedded.stack import Stack
from tests.acceptance.command_line import run_json
from tests.rabbitmq import RabbitMQ

pytestmark = pytest.mark.parametrize("topology", ["rabbitmq"], indirect=True)


def test_looking_at_queues_before_the_first_worker_changes_nothing(
    settings: Settings, stack: Stack, rabbitmq: RabbitMQ
) -> None:
    rabbitmq.delete("restore", "sync", "backup")
    for _ in range(2):
        status = run_json(settings, "status")
        assert status["queues"] == {"restore": 0, "sync": 0, "backup": 0}
    stack.start_worker()
