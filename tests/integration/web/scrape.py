"""Owns how tests read `/metrics`: as Prometheus does."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from tests.integration.web.visitors import Visitor

__all__ = ["Scrape", "scrape"]


class Scrape:
    """What `/metrics` has shown."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values = {
            (sample.name.removeprefix("statesync_"), tuple(sorted(sample.labels.items()))): (
                sample.value
            )
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def get(self, name: str, realm: str = "", **labels: str) -> float | None:
        """Return a value; None if there is none. The name stands without ``statesync_``."""
        return self.values.get((name, tuple(sorted({"realm": realm, **labels}.items()))))

    def by(self, name: str, label: str, realm: str = "") -> dict[str, float]:
        """Return the values of a metric, by one of its labels."""
        return {
            dict(labels)[label]: value
            for (found, labels), value in self.values.items()
            if found == name and dict(labels)["realm"] == realm
        }


def scrape(app: Starlette, *looks: str) -> Scrape:
    """Let the watch look at some kinds of servers, at Redis alone if none is named, and scrape."""
    app.state.watch.look(*looks or ("redis",))
    answer = Visitor(app, peer="10.0.0.9", base="http://10.0.0.1:9180").get("/metrics")
    assert answer.status_code == 200
    return Scrape(answer.text)
