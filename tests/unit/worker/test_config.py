"""What Celery is told; it reads neither the environment nor a module of that name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from celery.app.defaults import SETTING_KEYS

from statesync import Settings
from statesync.worker.config import celery_settings
from statesync.worker.names import TaskName


def test_celery_knows_every_setting_of_ours() -> None:
    assert celery_settings(Settings()).keys() - SETTING_KEYS == set()


def test_the_queue_prefix_reaches_every_queue() -> None:
    config = celery_settings(Settings(queue_prefix="eu1."))
    names = [queue.name for queue in config["task_queues"]]
    assert names == ["eu1.restore", "eu1.sync", "eu1.backup", "eu1.celery"]
    assert config["task_default_queue"] == "eu1.backup"
    assert {route["queue"] for route in config["task_routes"].values()} < set(names)


def test_a_scrub_is_scheduled_unless_it_is_switched_off() -> None:
    assert "scrub" in celery_settings(Settings())["beat_schedule"]
    assert "scrub" not in celery_settings(Settings(scrub_seconds=0))["beat_schedule"]


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
