"""Owns traces: spans of what a process does, if it has OpenTelemetry installed and configured.

A span has names, counts and an error's class. It never has an error's text or an argument: these
may quote what a player wrote.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

__all__ = ["NO_SPAN", "failed", "follow", "headers", "is_on", "span", "start_worker", "stop_worker"]

log = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
"""How long the last spans may take: an exporter that hangs takes half a minute."""
_EXPORTERS = "OTEL_TRACES_EXPORTER"
_OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_OTLP_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class _Traces:
    """What this process has of OpenTelemetry."""

    tracer: Tracer | None = None
    """Makes our spans; None: there are none."""
    provider: TracerProvider | None = None
    """Sends spans away, if it is ours and not one that somebody else has configured."""


_traces = _Traces()
NO_SPAN = nullcontext()
"""Stands in for a span where there are none."""


def follow() -> None:
    """Make spans from now on, if this process has configured OpenTelemetry by now."""
    try:
        from opentelemetry import trace
    except ImportError:
        return
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        _traces.tracer = trace.get_tracer("statesync", version("statesync"))


def is_on() -> bool:
    """Return whether this process makes spans."""
    return _traces.tracer is not None


def span(
    name: str, attributes: Mapping[str, str | int] | None = None, *, kind: str = "INTERNAL"
) -> AbstractContextManager[object]:
    """Return a span around a block; ``kind`` is one of OpenTelemetry's."""
    tracer = _traces.tracer
    return NO_SPAN if tracer is None else _span(tracer, name, attributes, kind)


@contextmanager
def _span(
    tracer: Tracer, name: str, attributes: Mapping[str, str | int] | None, kind: str
) -> Iterator[object]:
    from opentelemetry.trace import SpanKind

    with tracer.start_as_current_span(
        name,
        kind=SpanKind[kind],
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield made
        except BaseException as error:
            failed(error)
            raise


def failed(error: BaseException) -> None:
    """Have the span that is current say that an error ended it, and of which class."""
    if _traces.tracer is None:
        return
    from opentelemetry.trace import StatusCode, get_current_span

    current = get_current_span()
    current.set_status(StatusCode.ERROR)
    current.set_attribute("error.type", type(error).__qualname__)


def headers() -> dict[str, str] | None:
    """Return the headers by which a message goes on with the trace; None if there is none."""
    if _traces.tracer is None:
        return None
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier


def start_worker() -> None:
    """Make spans of tasks, their messages and all that they do, in a process that runs tasks.

    OpenTelemetry's own environment, ``OTEL_…``, says where they go. It has to be after a fork: what
    sends them is a thread.
    """
    try:
        from opentelemetry.instrumentation import celery
        from opentelemetry.instrumentation.redis import RedisInstrumentor

        _configure()
    except ImportError:
        return
    follow()
    if _traces.tracer is None:
        return
    of_celery = celery.CeleryInstrumentor()  # type: ignore[no-untyped-call]
    for instrumentor in (of_celery, RedisInstrumentor()):
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument()
    # It would send an error's text away.
    signals = celery.signals  # type: ignore[attr-defined]
    signals.task_failure.disconnect(of_celery._trace_failure)


def _configure() -> None:
    """Have spans sent to where the environment says, unless somebody has configured that."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    names = _exporter_names()
    if not names or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    provider = TracerProvider()
    for name in names:
        found = [*entry_points(group="opentelemetry_traces_exporter", name=name)]
        if not found:
            log.error("%s: no exporter %r is installed, so nothing is traced", _EXPORTERS, name)
            return
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    trace.set_tracer_provider(provider)
    _traces.provider = provider


def _exporter_names() -> list[str]:
    """Return the exporters that the environment names, as their packages call them."""
    default = "otlp" if any(map(os.environ.get, _OTLP_ENDPOINTS)) else "none"
    names = (os.environ.get(_EXPORTERS) or default).replace(" ", "").split(",")
    protocol = next(filter(None, map(os.environ.get, _OTLP_PROTOCOLS)), "grpc")
    otlp = "otlp_proto_http" if protocol.startswith("http") else "otlp_proto_grpc"
    return [otlp if name == "otlp" else name for name in names if name != "none"]


def stop_worker() -> None:
    """Send away the spans that are left, unless that takes long: supervisors do not wait."""
    if _traces.provider:
        sending = threading.Thread(target=_traces.provider.shutdown, daemon=True)
        sending.start()
        sending.join(_STOP_SECONDS)
