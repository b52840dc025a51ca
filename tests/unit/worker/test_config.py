"""What Celery is told; it reads neither the environment nor a module of that name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.defaults import SETTING_KEYS
from kombu.utils.imports import symbol_by_name

from statesync import Settings
from statesync.errors import SettingsError
from statesync.game.enqueue import enqueue_backup
from statesync.worker.app import app
from statesync.worker.config import celery_settings
from statesync.worker.names import TaskName


def test_celery_knows_every_setting_of_ours() -> None:
    assert celery_settings(Settings()).keys() - SETTING_KEYS == set()


@pytest.mark.parametrize(
    ("url", "options", "name"),
    [
        ("redis://h/1", '{"client_name": "x", "visibility_timeout": 7200}', "visibility_timeout"),
        ("amqp://h", '{"frame_max": 4096, "confirm_publish": false}', "confirm_publish"),
        ("sentinel://h:1/game/1", '{"min_other_sentinels": 1}', "min_other_sentinels"),
        ("redis://h/1", '{"max_retries": 3}', "max_retries"),
    ],
)
def test_options_of_the_broker_replace_ours(url: str, options: str, name: str) -> None:
    config = celery_settings(Settings(broker_url=url, broker_options=options))
    assert config["broker_transport_options"][name] == json.loads(options)[name]
    assert json.loads(options).items() <= config["broker_transport_options"].items()


@pytest.mark.parametrize("url", ["redis://h/1", "amqp://h", "sentinel://h:1/game/1"])
def test_option_that_the_broker_does_not_have_is_refused(url: str) -> None:
    wrong = Settings(broker_url=url, broker_options='{"visibilty_timeout": 3}')
    with pytest.raises(SettingsError, match=r"BROKER_OPTIONS: .*'visibilty_timeout'; it has "):
        celery_settings(wrong)
    with pytest.raises(SettingsError):
        enqueue_backup(wrong)


def test_each_sentinel_has_a_url_and_the_results_know_the_master() -> None:
    config = celery_settings(Settings(redis_url="sentinel://:p@a:1,b/game/0?sentinel_password=q"))
    assert config["broker_url"] == "sentinel://:p@a:1/1;sentinel://:p@b:26379/1"
    assert config["result_backend"] == "sentinel://:p@a:1/2;sentinel://b:26379/2"
    for name in ("broker_transport_options", "result_backend_transport_options"):
        assert config[name]["master_name"] == "game"
        assert config[name]["sentinel_kwargs"]["password"] == "q"


@pytest.mark.parametrize(
    "urls",
    [
        {"redis_url": "redis://bob:hunter2@h/0"},
        {"redis_url": "sentinel://bob:hunter2@h,i,j/game/0?sentinel_password=hunter3"},
        {"broker_url": "amqp://bob:hunter2@h/v", "result_url": "rpc://"},
    ],
)
def test_workers_tell_no_password(urls: dict[str, Any]) -> None:
    """They are asked by Flower and by ``celery inspect conf``."""
    with Celery("worker", set_as_current=False) as asked:
        asked.conf.update(celery_settings(Settings(**urls)))
        assert "hunter" not in repr(asked.conf.table())
        assert "hunter" not in asked.bugreport()


@pytest.mark.parametrize("url", ["redis://h/2", "sentinel://h:1/game/2"])
def test_results_that_are_frozen_are_away(url: str) -> None:
    app = Celery("x", set_as_current=False)
    app.conf.update(celery_settings(Settings(result_url=url)))
    backend: Any = app.backend
    limits = backend.connparams
    assert (limits["socket_timeout"], limits["socket_connect_timeout"]) == (30, 5)


def test_queues_of_rabbitmq_are_quorum_queues_and_their_keys_one_word() -> None:
    config = celery_settings(
        Settings(broker_url="amqp://h", queue_prefix="eu.", result_url="rpc://")
    )
    for queue in config["task_queues"]:
        assert queue.queue_arguments == {"x-queue-type": "quorum"}
        assert queue.exchange.type == "topic"
        assert queue.routing_key == queue.name.replace(".", "/")


def test_the_queue_prefix_reaches_every_queue() -> None:
    config = celery_settings(Settings(queue_prefix="eu1."))
    names = [queue.name for queue in config["task_queues"]]
    assert names == ["eu1.restore", "eu1.sync", "eu1.backup", "eu1.celery"]
    assert config["task_default_queue"] == "eu1.backup"
    (route,) = config["task_routes"]
    assert {route(name.value, (), {})["queue"] for name in TaskName} < set(names)


def test_a_scrub_is_scheduled_unless_it_is_switched_off() -> None:
    assert "scrub" in celery_settings(Settings())["beat_schedule"]
    assert "scrub" not in celery_settings(Settings(scrub_seconds=0))["beat_schedule"]


def test_a_slice_is_scheduled_sixty_times_in_an_interval_and_a_lost_one_is_made_up_for() -> None:
    scheduled = celery_settings(Settings(sync_seconds=120))["beat_schedule"]["sync-slice"]
    assert (scheduled["task"], scheduled["schedule"]) == ("statesync.sync_slice", 2.0)
    assert scheduled["options"]["expires"] == 120
    short = celery_settings(Settings(sync_seconds=1))["beat_schedule"]["sync-slice"]
    assert short["schedule"] == 0.25


@pytest.mark.parametrize("name", [TaskName.SYNC_DIRTY, TaskName.SYNC_SLICE])
def test_sweeps_have_a_queue_of_their_own(name: TaskName) -> None:
    (route,) = celery_settings(Settings())["task_routes"]
    assert route(name.value, (), {}) == {"queue": "sync"}


@pytest.mark.parametrize(("queues", "nice"), [([], 10), (["backup"], 10), (["restore"], 0)])
def test_process_that_saves_yields_to_the_game(queues: list[str], nice: int) -> None:
    ran = subprocess.run(
        [
            sys.executable, "-c",
            "import os\nfrom statesync.worker.app import app, yield_to_the_game\n"
            f"app.amqp.queues.select({queues})\nbefore = os.nice(0)\nyield_to_the_game()\n"
            "print(os.nice(0) - before)",
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.stdout.split() == [str(nice)], ran.stderr


def test_every_task_has_its_name_and_no_other() -> None:
    from statesync.worker import tasks

    names = {getattr(tasks, name).name for name in tasks.__all__}
    assert names == {name.value for name in TaskName}


def test_importing_it_reads_no_environment(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import statesync.worker.config, statesync.worker.tasks"],
        cwd=tmp_path, env={"STATESYNC_NONSENSE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def test_beat_sleeps_until_a_message_is_due() -> None:
    """Celery's own scheduler stays awake for the last 10 ms before each."""
    scheduler = symbol_by_name(celery_settings(Settings())["beat_scheduler"])
    assert scheduler(app, lazy=True).adjust(0.005) == 0.005
