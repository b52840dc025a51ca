"""Owns `/metrics`: what the watch has seen, as Prometheus reads it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from statesync.hot.histograms import Distribution
from statesync.lifecycle.realms import Realms
from statesync.web.catalog import METRICS, Kind
from statesync.web.threads import ThreadedRoute
from statesync.web.watch import Watch

__all__ = ["Collector", "Metrics", "routes", "show_metrics"]

KEPT_SECONDS = 2.0
"""How long an answer is given to all: with many realms it takes a second to make."""

_FAMILIES = {
    Kind.GAUGE: GaugeMetricFamily,
    Kind.COUNTER: CounterMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


class Collector:
    """Gives the metrics of all realms that a watch looks at; it asks no server."""

    def __init__(self, realms: Realms, watch: Watch) -> None:
        self.settings = {realm: realms.settings(realm) for realm in watch.realm_names}
        self.watch = watch

    def collect(self) -> Iterator[Metric]:
        """Yield each metric, with its values in each realm."""
        samples = {realm: self.watch.latest(realm) for realm in self.settings}
        for metric in METRICS:
            family = _FAMILIES[metric.kind](
                metric.name, metric.help, labels=["realm", *metric.labels]
            )
            for realm, sample in samples.items():
                for labels, value in metric.read(sample, self.settings[realm]):
                    _add(family, [realm, *labels], value)
            yield family


def _add(family: Metric, labels: list[str], value: float | Distribution) -> None:
    if isinstance(family, HistogramMetricFamily) and isinstance(value, Distribution):
        buckets = [(_le(bound), count) for bound, count in value.buckets]
        family.add_metric(labels, buckets, value.total)
    elif isinstance(family, GaugeMetricFamily | CounterMetricFamily):
        assert not isinstance(value, Distribution)  # noqa: S101
        family.add_metric(labels, float(value))


def _le(bound: float) -> str:
    """Return a bound as Prometheus' own libraries write it."""
    return "+Inf" if math.isinf(bound) else str(float(bound))


class Metrics:
    """What `/metrics` answers. It is made once in a while: whoever asks may be anybody."""

    def __init__(self, realms: Realms, watch: Watch, *, kept_seconds: float = KEPT_SECONDS) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Collector(realms, watch))
        self._kept_seconds = kept_seconds
        self._made: dict[str, tuple[float, bytes]] = {}

    def answer(self, accept: str) -> Response:
        """Return all metrics, in the format that is asked for."""
        encode, content_type = choose_encoder(accept)
        made_at, body = self._made.get(content_type, (-math.inf, b""))
        if time.monotonic() - made_at >= self._kept_seconds:
            body = encode(self._registry)
            self._made[content_type] = (time.monotonic(), body)
        return Response(body, headers={"Content-Type": content_type})


def show_metrics(request: Request) -> Response:
    """Answer with all metrics."""
    metrics: Metrics = request.app.state.metrics
    return metrics.answer(request.headers.get("accept", ""))


routes = [ThreadedRoute("/metrics", show_metrics, methods=["GET"], at_once=1)]
