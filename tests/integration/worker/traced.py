"""A game and a worker in one process, traced into memory; prints the spans as JSON.

So the game uses OpenTelemetry's instrumentation of Celery as well.
"""

from __future__ import annotations

import asyncio
import json
import time

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from statesync import AsyncGameStore, AsyncLoginService, GameStore, LoginService, Settings

SECRET = "a-players-words"


def play(settings: Settings) -> None:
    with GameStore(settings) as store:
        logins = LoginService(store)
        store.create(1, state="town", guild=SECRET)
        store.create(2, state="town", guild=SECRET)
        logins.change_state(1, "woods", motto=SECRET)
        assert not trace.get_current_span().get_span_context().is_valid, "nothing is left current"
        asyncio.run(play_on(settings))
        logins.change_state(1, "cave", motto=SECRET, durable=True)
        hot = store._client.hot()
        while (status := hot.status()).dirty or status.claimed:
            time.sleep(0.01)


async def play_on(settings: Settings) -> None:
    async with AsyncGameStore(settings) as store:
        await AsyncLoginService(store).change_state(2, "woods", motto=SECRET)


def shown(span: ReadableSpan) -> dict[str, object]:
    assert span.context
    return {
        "trace": span.context.trace_id,
        "id": span.context.span_id,
        "parent": span.parent.span_id if span.parent else None,
        "name": span.name,
        "kind": span.kind.name,
        "whole": span.to_json(),
    }


def main() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    from celery.contrib.testing.worker import start_worker

    import statesync.worker.tasks  # noqa: F401 - the worker runs them
    from statesync.worker.app import app

    with start_worker(app, perform_ping_check=False, pool="solo"):
        play(Settings.from_env())
    print(json.dumps([shown(span) for span in exporter.get_finished_spans()]))


if __name__ == "__main__":
    main()
