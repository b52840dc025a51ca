"""A game's own Celery application stays as it is when the game enqueues backups with ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kombu.transport.memory import Channel

from statesync import Settings, tracing
from statesync.errors import BrokerUnavailable
from statesync.game.enqueue import BackupSender, enqueue_backup

GAME = """
import json, os
before = dict(os.environ)
from celery import Celery, current_app, shared_task
from kombu import pools
from kombu.transport.memory import Channel
from statesync import LoginService, Settings
from statesync.game.enqueue import enqueue_backup

sent = []
def put(channel, queue, message, **_):
    task = message["headers"]["task"]
    sent.append([channel.connection.client.hostname, queue, task, message["content-type"]])
Channel._put = put

app = Celery("game", broker="memory://game")
app.conf.broker_pool_limit = 23

@shared_task(name="game.greet", ignore_result=True)
def greet(): ...

greet.delay()
enqueue = enqueue_backup(Settings(broker_url="memory://ours", queue_prefix="p."))
enqueue(42)
greet.delay()
enqueue.close()
greet.delay()
print(json.dumps({
    "sent": sent,
    "current": current_app.main,
    "pool limit": pools.get_limit(),
    "environment unchanged": dict(os.environ) == before,
}))
"""
OURS = ["ours", "p.backup", "statesync.backup_full_state", "application/json"]
THEIRS = ["game", "celery", "game.greet", "application/json"]


def play(cwd: Path, **environ: str) -> Any:
    """Run the game in a process of its own, and return what it saw."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("CELERY_")}
    game = subprocess.run(
        [sys.executable, "-c", GAME],
        cwd=cwd, env=env | environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert game.returncode == 0, game.stderr
    return json.loads(game.stdout)


def test_a_games_shared_tasks_go_to_the_games_broker(tmp_path: Path) -> None:
    assert play(tmp_path) == {
        "sent": [THEIRS, OURS, THEIRS, THEIRS],
        "current": "game",
        "pool limit": 23,
        "environment unchanged": True,
    }


def test_the_games_own_configuration_does_not_reach_our_sender(tmp_path: Path) -> None:
    (tmp_path / "games_config.py").write_text('task_serializer = "pickle"\n')
    seen = play(tmp_path, CELERY_CONFIG_MODULE="games_config", CELERY_BROKER_URL="memory://game")
    theirs = [*THEIRS[:3], "application/x-python-serialize"]
    assert seen["sent"] == [theirs, OURS, theirs, theirs]


def test_a_broker_that_is_away_is_a_broker_unavailable(tmp_path: Path) -> None:
    nowhere = Settings(broker_url=f"redis+socket://{tmp_path}/none.sock?virtual_host=1")
    with enqueue_backup(nowhere) as enqueue, pytest.raises(BrokerUnavailable, match="the broker: "):
        enqueue(1)


def test_a_message_goes_on_with_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    monkeypatch.setattr(tracing._traces, "tracer", sdk.TracerProvider().get_tracer("game"))
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(Channel, "_put", lambda _, __, message, **___: sent.append(message))
    with enqueue_backup(Settings(broker_url="memory://ours")) as enqueue, tracing.span("x") as span:
        enqueue(1)
    (message,) = sent
    trace_id: int = span.get_span_context().trace_id  # type: ignore[attr-defined]
    assert message["headers"]["traceparent"].split("-")[1] == f"{trace_id:032x}"


def test_it_connects_on_first_use_only() -> None:
    BackupSender(Settings(broker_url="redis://192.0.2.1/1")).close()
