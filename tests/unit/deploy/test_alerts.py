"""Alerts and dashboard name metrics that exist; each alert fires in its situation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from statesync.web.catalog import METRICS, Kind
from tests.alerts import PROMETHEUS, RULES, promtool
from tests.unit.deploy.named import ROOT, documents

(_GROUPS,) = documents(RULES)
ALERTS: list[dict[str, Any]] = [rule for group in _GROUPS["groups"] for rule in group["rules"]]


def series() -> dict[str, set[str]]:
    """What a scrape gives, with the names of its labels."""
    parts = {Kind.HISTOGRAM: {"_bucket": {"le"}, "_sum": set[str](), "_count": set[str]()}}
    return {
        metric.name + part: {"realm", *metric.labels, *labels}
        for metric in METRICS
        for part, labels in parts.get(metric.kind, {"": set()}).items()
    }


def check_expression(expression: str) -> None:
    """Check that each metric of an expression exists, and has the labels that it is asked for."""
    known = series()
    found = re.findall(r"\b(statesync_\w+)(?:\{([^}]*)\})?", expression)
    assert found, expression
    for name, selector in found:
        assert name in known, expression
        assert {*re.findall(r"(\w+)\s*[=!]", selector)} <= known[name], expression


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_alert_names_what_exists_and_says_what_to_do(alert: dict[str, Any]) -> None:
    check_expression(alert["expr"])
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    notes = alert["annotations"]
    assert {*notes} == {"summary", "description", "runbook"}
    assert re.fullmatch(r"docs/runbooks\.md#([a-z-]+|\{\{ \$labels\.\w+ \}\})", notes["runbook"])
    metric = re.findall(r"statesync_\w+", alert["expr"])[0]
    labels = {*re.findall(r"\$labels\.(\w+)", " ".join(notes.values()))}
    assert labels <= series()[metric]


def test_promtool_accepts_the_files() -> None:
    promtool("check", "config", "--lint-fatal", "prometheus.yml")


def test_each_alert_fires_in_its_situation_and_none_on_a_healthy_fleet() -> None:
    promtool("test", "rules", "tests.yml")
    (made,) = documents(PROMETHEUS / "tests.yml")
    expected = json.dumps([test["promql_expr_test"] for test in made["tests"]])
    fired = re.findall(r'alertname=\\"(\w+)', expected)
    assert {*fired} == {alert["alert"] for alert in ALERTS}
    healthy = made["tests"][0]
    assert not any(expected["exp_samples"] for expected in healthy["promql_expr_test"])
    given = {entry["series"].partition("{")[0] for entry in healthy["input_series"]}
    assert {
        name for alert in ALERTS for name in re.findall(r"statesync_\w+", alert["expr"])
    } <= given


def test_what_the_situations_give_exists() -> None:
    (made,) = documents(PROMETHEUS / "tests.yml")
    for test in made["tests"]:
        for entry in test["input_series"]:
            check_expression(entry["series"])


DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "statesync.json").read_text())
VARIABLES = {"$realm": ".*", "$__rate_interval": "5m"}
"""What Grafana puts in."""


def queries() -> list[str]:
    """The queries of all panels, as Prometheus gets them."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    for name, value in VARIABLES.items():
        found = [query.replace(name, value) for query in found]
    return found


def test_dashboard_asks_for_what_exists(tmp_path: Path) -> None:
    for query in queries():
        assert "$" not in query
        check_expression(query)
    made = [{"record": f"panel:{i}", "expr": query} for i, query in enumerate(queries())]
    rules = tmp_path / "rules.yml"
    rules.write_text(json.dumps({"groups": [{"name": "panels", "rules": made}]}))
    promtool("check", "rules", str(rules))


def test_dashboard_shows_every_metric_but_the_version() -> None:
    shown = {*re.findall(r"statesync_\w+", " ".join(queries()))}
    shown = {re.sub("_bucket$", "", name) for name in shown}
    assert shown == {metric.name for metric in METRICS} - {"statesync_build_info"}


def test_dashboard_can_be_imported_anywhere() -> None:
    """It names its data source and realms by variables, and its panels do not overlap."""
    variables = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "realm"]
    sources = re.findall(r'"uid": "(.*?)"', json.dumps(DASHBOARD["panels"]))
    assert {*sources} == {"${datasource}"}
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len({*cells})
    assert max(x for x, _ in cells) == 23
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len({*ids})
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"]
