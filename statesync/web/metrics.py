"""Owns `/metrics`: what the watch has seen, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from statesync.web.watch import Watch

__all__ = ["Collector", "metrics", "routes"]


class Collector:
    """Gives the metrics of all realms that a watch looks at; it asks no server."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def collect(self) -> Iterator[Metric]:
        """Yield each metric, with a value for each realm."""
        up = GaugeMetricFamily(
            "statesync_up", "Whether a server answers.", labels=["realm", "server"]
        )
        for realm in self.watch.realm_names:
            sample = self.watch.latest(realm)
            for server in ("redis", "postgresql", "broker"):
                up.add_metric([realm, server], getattr(sample, server).is_up)
        yield up


def metrics(request: Request) -> Response:
    """Answer with all metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(request.app.state.watch))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


routes = [Route("/metrics", metrics)]
