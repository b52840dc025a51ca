"""What a task's row and its lines in the log say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from kombu.utils.json import dumps

from statesync import Settings
from statesync.worker.names import TaskName
from statesync.worker.rows import Told, about

SWEEP = {"requeued": 0, "claimed": 1, "batches": 0, "left": 0, "comparing": False}
REPORT = {"char_id": 42, "outcome": "quarantined", "error": "no JSON: my secret", "field": "stats"}


@pytest.mark.parametrize(
    ("task", "result", "words"),
    [
        (TaskName.BACKUP_FULL_STATE, REPORT, "character 42: quarantined (stats)"),
        (TaskName.BACKUP_FULL_STATE, REPORT | {"field": None}, "character 42: quarantined"),
        (
            TaskName.BACKUP_FULL_STATE,
            REPORT | {"field": "a\n\x1b[31m" + "b" * 99},
            r"character 42: quarantined (a\n\x1b[31m" + "b" * 53 + ")",
        ),
        (
            TaskName.RESTORE_FULL_STATE,
            {"char_id": 42, "outcome": "restored"},
            "character 42: restored",
        ),
        (
            TaskName.BACKUP_BATCH,
            {"unchanged": 400, "quarantined": 2, "saved": 98},
            "500 characters: 98 saved, 2 quarantined, 400 unchanged",
        ),
        (TaskName.BACKUP_BATCH, {}, "0 characters"),
        (TaskName.RESTORE_BATCH, {"not_found": 1}, "1 character: 1 not_found"),
        (TaskName.SYNC_SLICE, SWEEP, "1 character claimed, 0 left"),
        (
            TaskName.SYNC_DIRTY,
            SWEEP | {"claimed": 500, "left": 7, "requeued": 3, "comparing": True},
            "500 characters claimed, 7 left, 3 of ended leases dirty again, "
            "comparing everything live",
        ),
        (TaskName.SCRUB, {"cursor": 0}, "0 characters compared, 0 marked"),
        (
            TaskName.SCRUB,
            {"characters": 20_000, "sessions": 3, "marked": 1, "cursor": 77},
            "20000 characters compared, 1 marked, goes on",
        ),
    ],
)
def test_result_is_told_in_words_and_sent_as_it_is(
    task: TaskName, result: dict[str, Any], words: str
) -> None:
    told = Told(task, result)
    assert saferepr(told, 1024) == words  # what Celery's events and log carry
    assert json.loads(dumps(told)) == result
    assert told == result


def test_message_names_its_realm() -> None:
    one = Settings(realms="eu,us", redis_url="redis://h/0", database_url="postgresql://h/{realm}")
    eu = one.for_realm("eu")
    assert about(TaskName.BACKUP_FULL_STATE, eu, 42) == "character 42, realm eu"
    assert about(TaskName.SYNC_SLICE, eu) == "what is due, realm eu"
    assert about(TaskName.SYNC_SLICE, Settings()) == "what is due"
