"""Spans cost nothing where there are none, and tell nothing of what players wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from statesync import tracing
from statesync.hot.commands import characters
from statesync.hot.keys import Keys
from statesync.hot.spans import span_of

pytest.importorskip("opentelemetry.sdk", reason="the extra statesync[otel] is not installed")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing._traces, "tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def only(exported: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exported.get_finished_spans()
    return span


def test_without_a_tracer_there_are_no_spans() -> None:
    tracing.follow()
    assert not tracing.is_on(), "nobody has configured OpenTelemetry here"
    assert tracing.span("x") is tracing.span("y")
    assert tracing.headers() is None
    tracing.failed(ValueError())


def test_a_span_has_the_class_of_an_error_and_not_its_text(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="secret"), tracing.span("x", {"n": 1}, kind="CLIENT"):
        raise ValueError("secret")
    span = only(exported)
    assert (span.name, span.kind.name, span.status.status_code.name) == ("x", "CLIENT", "ERROR")
    assert dict(span.attributes or {}) == {"n": 1, "error.type": "ValueError"}
    assert "secret" not in span.to_json()


def test_a_message_carries_the_trace(exported: InMemorySpanExporter) -> None:
    with tracing.span("x"):
        headers = tracing.headers() or {}
    context = only(exported).context
    assert context
    assert headers["traceparent"].split("-")[1] == f"{context.trace_id:032x}"


def test_a_span_of_commands_names_their_script(exported: InMemorySpanExporter) -> None:
    update = characters.update(Keys(), 1, gold="secret")
    with span_of([]):
        pass
    assert not exported.get_finished_spans()
    with span_of([update]):
        pass
    one = only(exported)
    assert one.name == "EVALSHA update"
    assert dict(one.attributes or {}) == {
        "db.system.name": "redis",
        "db.operation.name": "EVALSHA",
        "db.stored_procedure.name": "update",
    }
    with span_of([update, characters.get(Keys(), 1)]):
        pass
    both = exported.get_finished_spans()[1]
    assert both.name == "EVALSHA"
    assert (both.attributes or {})["db.operation.batch.size"] == 2
    assert "secret" not in one.to_json() + both.to_json()


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, []),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp_proto_grpc"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, ["otlp_proto_grpc"]),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            ["otlp_proto_http"],
        ),
    ],
)
def test_the_environment_says_where_spans_go(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], names: list[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracing._exporter_names() == names


def test_an_exporter_that_is_missing_is_told_and_nothing_is_traced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
    tracing.start_worker()
    assert not tracing.is_on()
    assert "no exporter 'carrier-pigeon' is installed" in caplog.text


def test_without_the_extra_a_worker_and_a_game_do_without() -> None:
    code = (
        "import json, sys; sys.modules['opentelemetry'] = None; from statesync import tracing;"
        "tracing.follow(); tracing.start_worker(); tracing.stop_worker();"
        "print(json.dumps(tracing.is_on()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) is False


def test_an_exporter_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    provider, may_end, ended = TracerProvider(), threading.Event(), threading.Event()

    def hang() -> None:
        may_end.wait(10)
        ended.set()

    monkeypatch.setattr(provider, "shutdown", hang)
    monkeypatch.setattr(tracing._traces, "provider", provider)
    monkeypatch.setattr(tracing, "_STOP_SECONDS", 0.01)
    tracing.stop_worker()
    assert not ended.is_set()
    may_end.set()
    assert ended.wait(10)
