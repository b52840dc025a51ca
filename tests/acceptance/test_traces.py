"""Traces of a real worker, whose processes OpenTelemetry's own environment configures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from statesync import GameStore, LoginService, Settings, tracing
from statesync.embedded.child import Child
from statesync.embedded.stack import Stack
from statesync.hot.store import HotStore
from tests.acceptance.conftest import Game, wait_until

pytest.importorskip("opentelemetry.sdk", reason="the extra statesync[otel] is not installed")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

pytestmark = pytest.mark.slow

Span = dict[str, Any]


@pytest.fixture
def traced_worker(stack: Stack) -> Iterator[Child]:
    """A worker that writes its spans into its log."""
    words = ("worker", "-n", "traced@%h", "-c", "2", "--loglevel", "INFO")
    env = {"OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": "statesync-worker"}
    child = stack.start("traced", *words, env=env)
    stack.wait_worker(child)
    yield child
    child.kill()


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What this process, the game, exports."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing._traces, "tracer", provider.get_tracer("game"))
    return exporter


def spans_of(worker: Child) -> list[Span]:
    """End the worker, which sends away what is left, and read its spans."""
    worker.stop()
    text = worker.log.read_text()
    starts = [found.end() - 1 for found in re.finditer(r"ForkPoolWorker-\d+\] \{", text)]
    return [json.JSONDecoder().raw_decode(text, start)[0] for start in starts]


def descendants(span: Span, spans: list[Span]) -> set[str]:
    trace = span["context"]["trace_id"]
    return {one["name"] for one in spans if one["context"]["trace_id"] == trace}


def test_a_trace_goes_on_in_the_worker(
    settings: Settings, hot: HotStore, traced_worker: Child, exported: InMemorySpanExporter
) -> None:
    with GameStore(settings) as store:
        store.create(1, state="town")
        LoginService(store).change_state(1, "woods")
        wait_until(lambda: not hot.status().dirty and not hot.status().claimed)
    (change,) = (one for one in exported.get_finished_spans() if "change_state" in one.name)
    (send,) = (one for one in exported.get_finished_spans() if one.name.startswith("send "))
    assert send.context
    assert change.context
    assert send.context.trace_id == change.context.trace_id
    spans = spans_of(traced_worker)
    (run,) = (one for one in spans if one["name"] == "run/statesync.backup_full_state")
    assert run["parent_id"] == f"0x{send.context.span_id:016x}"
    assert run["context"]["trace_id"] == f"0x{change.context.trace_id:032x}"
    assert "transaction" in descendants(run, spans)
    assert run["resource"]["attributes"]["service.name"] == "statesync-worker"


def test_a_sweep_begins_its_own_trace_and_its_batches_are_part_of_it(
    game: Game, settings: Settings, hot: HotStore, traced_worker: Child
) -> None:
    game.worker.kill()
    for char_id in range(1, 200):
        hot.create(char_id, state="town")
    game.sync_until_clean(hot)
    spans = spans_of(traced_worker)
    sweeps = [one for one in spans if one["name"] == "run/statesync.sync_dirty"]
    assert sweeps
    assert not any(sweep["parent_id"] for sweep in sweeps)
    batch = "run/statesync.backup_batch"
    assert any({batch, "transaction"} <= descendants(sweep, spans) for sweep in sweeps)
