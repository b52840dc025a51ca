"""Owns how a test asks Prometheus which alerts fire when the metrics of a fleet change.

What `/metrics` gave before and after a change becomes the input of `promtool test rules`: the
values are real, and nobody waits for a quarter of an hour.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from statesync.embedded.child import Child
from statesync.settings import Settings
from tests.acceptance.command_line import STATESYNC
from tests.ports import free_port

__all__ = ["PROMETHEUS", "RULES", "check_fire", "promtool", "scrape"]

PROMETHEUS = Path(__file__).parents[1] / "deploy" / "prometheus"
RULES = PROMETHEUS / "statesync.rules.yml"

_BEFORE_MINUTES = 30
_AFTER_MINUTES = 60
_Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def promtool(*words: str) -> None:
    """Run promtool, and check that it finds nothing wrong; skip the test if it is not installed."""
    program = shutil.which("promtool")
    if not program:
        pytest.skip("promtool is not installed")
    ran = subprocess.run([program, *words], cwd=PROMETHEUS, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def scrape(settings: Settings, folder: Path) -> str:
    """Return what `/metrics` of `statesync serve` gives when it has looked at everything once."""
    port = free_port()
    child = Child(
        "serve",
        [*STATESYNC, "serve", "--port", str(port)],
        folder / "serve.log",
        env={**os.environ, **settings.to_env()},
        stop_signal=signal.SIGKILL,
    )
    found = ""

    def has_looked() -> bool:
        nonlocal found
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            found = answer.read().decode()
        return "statesync_check_failed{" in found

    child.start()
    try:
        child.wait_ready(has_looked)
    finally:
        child.stop()
    return found


def check_fire(folder: Path, before: str, after: str, *alerts: str, minutes: int = 6) -> None:
    """Check that exactly these alerts fire ``minutes`` after the change, and did not before it.

    An alert is written as ``Name`` or ``Name server=redis``.
    """
    series: dict[str, Any] = {
        name: _values(_read(before).get(key), _read(after).get(key))
        for key in {**_read(before), **_read(after)}
        for name in [_name(*key)]
    }
    firing = 'ALERTS{alertstate="firing"}'
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": text} for name, text in series.items()],
        "promql_expr_test": [
            {
                "expr": f"{firing} unless {firing} offset {minutes + 1}m",
                "eval_time": f"{_BEFORE_MINUTES + minutes}m",
                "exp_samples": [{"labels": _expected(alert), "value": 1} for alert in alerts],
            }
        ],
    }
    made = folder / "alerts.yml"
    made.write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]})
    )
    promtool("test", "rules", str(made))


def _read(text: str) -> _Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _name(name: str, labels: tuple[tuple[str, str], ...]) -> str:
    return name + "{" + ",".join(f"{label}={json.dumps(value)}" for label, value in labels) + "}"


def _values(before: float | None, after: float | None) -> str:
    return f"{_repeated(before, _BEFORE_MINUTES)} {_repeated(after, _AFTER_MINUTES)}"


def _repeated(value: float | None, minutes: int) -> str:
    """Return a value for so many minutes as promtool reads it."""
    if value is None:
        return f"_x{minutes}"
    if math.isinf(value):
        return " ".join(["+Inf"] * minutes)
    return f"{value:f}+0x{minutes - 1}"


def _expected(alert: str) -> str:
    name, *labels = alert.split()
    (rules,) = yaml.safe_load_all(RULES.read_text())
    by_name = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}
    severity = by_name[f"Statesync{name}"]["labels"]["severity"]
    own = {"alertname": f"Statesync{name}", "alertstate": "firing", "severity": severity}
    own |= dict(label.split("=") for label in labels)
    return _name("ALERTS", tuple(own.items()))
