"""The metrics: named as Prometheus wants it, and the docs name all of them and no other."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from statesync.hot.commands.health import Figures
from statesync.hot.commands.operators import Status
from statesync.lifecycle.realms import Realms
from statesync.observe.check import Topic, checked
from statesync.settings import Settings
from statesync.web.catalog import METRICS, Kind
from statesync.web.metrics import Collector
from statesync.web.watch import Answer, Checked, Sample, Watch, Worker

DOCS = Path(__file__).parents[3] / "docs"
ROW = re.compile(r"^\| `(statesync_\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", re.MULTILINE)
NOW = 4_000_000_000.0
"""Of answers that never grow old."""


def test_the_docs_name_all_metrics_and_no_other() -> None:
    text = (DOCS / "operations.md").read_text()
    shown = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), meaning)
        for name, kind, labels, meaning in ROW.findall(text)
    }
    assert shown == {
        metric.name: (
            metric.kind.value,
            metric.labels,
            metric.help[0].lower() + metric.help[1:].removesuffix("."),
        )
        for metric in METRICS
    }


@pytest.mark.parametrize("page", [path.name for path in sorted(DOCS.glob("*.md"))])
def test_no_page_names_a_metric_that_there_is_not(page: str) -> None:
    suffixes = r"(_bucket|_count|_sum)?"
    known = re.compile("|".join(f"{metric.name}{suffixes}" for metric in METRICS))
    named = set(re.findall(r"`(statesync_\w+)[`{]", (DOCS / page).read_text()))
    tables = {"statesync_alembic_version", "statesync_realm", "statesync_moves"}
    roles = {"statesync_owner", "statesync_worker", "statesync_reader", "statesync_session_types"}
    assert [name for name in named - tables - roles if not known.fullmatch(name)] == []


def test_names_say_what_they_count() -> None:
    assert [name for name, n in Counter(m.name for m in METRICS).items() if n > 1] == []
    for metric in METRICS:
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert metric.help.endswith(".")
        assert "realm" not in metric.labels


def sample(realm: str) -> Sample:
    """Return one in which everything is known."""
    check = checked(Topic.MEMORY, "it is full", fail="give it more")
    found = Checked([check], {"worker@one": Worker({"restore", "sync"}, ["combat"])})
    return Sample(
        realm,
        redis=Answer(Status(1, 2, 3, 4, 5000, {"saved": 6}, False, False, False), "", NOW),
        figures=Answer(Figures(7000, None, 8, 9, "", {"batch_characters 5": 1}), "", NOW),
        troubles=Answer({}, "", NOW),
        postgresql=Answer([], "", NOW),
        broker=Answer({"restore": 1, "sync": 2, "backup": 3}, "", NOW),
        checks=Answer(found, "", NOW),
    )


def exposition(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    sample: Callable[[str], Sample] = sample,
) -> str:
    monkeypatch.setattr(Watch, "latest", lambda _, realm: sample(realm))
    registry = CollectorRegistry(auto_describe=False)
    with Realms(settings) as realms:
        registry.register(Collector(realms, Watch(realms)))
        return generate_latest(registry).decode()


def test_every_metric_has_a_value_if_everything_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    text = exposition(Settings(), monkeypatch)
    for metric in METRICS:
        name = metric.name + "_bucket" * (metric.kind is Kind.HISTOGRAM)
        assert re.search(rf'^{name}\{{.*realm="".*\}} ', text, re.MULTILINE), name
    assert 'statesync_check_failed{check="redis",realm=""} 1.0' in text
    assert 'statesync_check_failed{check="postgresql",realm=""} 0.0' in text
    assert 'statesync_check_warned{check="redis",realm=""} 0.0' in text
    assert 'statesync_queue_workers{queue="sync",realm=""} 1.0' in text
    assert 'statesync_queue_workers{queue="backup",realm=""} 0.0' in text
    assert 'statesync_workers{realm=""} 1.0' in text


def test_redis_that_takes_no_changes_is_told_though_no_worker_can_note_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(realm: str) -> Sample:
        known = sample(realm)
        assert known.figures.value
        figures = known.figures.value._replace(unwritten="the append-only file")
        return replace(known, figures=Answer(figures, "", NOW))

    assert 'statesync_trouble{realm="",server="redis"} 0.0' in exposition(Settings(), monkeypatch)
    text = exposition(Settings(), monkeypatch, full)
    assert 'statesync_trouble{realm="",server="redis"} 1.0' in text
    assert 'statesync_trouble{realm="",server="postgresql"} 0.0' in text


def test_promtool_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: it comes with Prometheus")
    text = exposition(Settings(), monkeypatch)
    ran = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
