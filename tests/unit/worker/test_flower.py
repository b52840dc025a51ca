"""What Flower is told when it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from flower import command
from tornado.options import options

from statesync import Settings
from statesync.worker.flower import protect_flower

_OPTIONS = ("address", "basic_auth", "read_only", "tasks_columns")


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave neither the environment nor Flower's own module as these tests make them."""
    for name in _OPTIONS:
        monkeypatch.setenv(f"FLOWER_{name.upper()}", "")
        monkeypatch.delenv(f"FLOWER_{name.upper()}")
    monkeypatch.setattr(command, "Flower", command.Flower)
    before = {name: getattr(options, name) for name in _OPTIONS}
    yield
    for name, value in before.items():
        setattr(options, name, value)


def test_flower_is_read_only_and_its_rows_show_results_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protect_flower(Settings())
    command.apply_env_options()
    assert options.read_only is True
    assert {"args", "result"} < {*options.tasks_columns.split(",")}

    monkeypatch.setenv("FLOWER_READ_ONLY", "false")
    monkeypatch.setenv("FLOWER_TASKS_COLUMNS", "name")
    protect_flower(Settings())
    command.apply_env_options()
    assert (options.read_only, options.tasks_columns) == (False, "name")


def test_password_that_nobody_gave_is_another_one_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protect_flower(Settings())
    first = os.environ["FLOWER_BASIC_AUTH"]
    monkeypatch.delenv("FLOWER_BASIC_AUTH")
    protect_flower(Settings())
    assert os.environ["FLOWER_BASIC_AUTH"] != first
    assert len(first) > 40
