"""Every benchmark runs; what it finds is not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import redis
from click import ClickException
from click.testing import CliRunner
from sqlalchemy import Engine, func, insert, select

from benchmarks import __main__ as command
from benchmarks import cases
from benchmarks.cases.profile import BUCKETS
from benchmarks.cases.tail import SECOND
from benchmarks.chart import write_chart
from benchmarks.contest import Contest, Result, compete
from benchmarks.environment import child_env
from benchmarks.processes import CPU_UNIT
from statesync import Settings
from statesync.durable.tables import characters
from statesync.embedded.servers import Servers
from statesync.errors import InvalidInput

CHECKOUT = Path(__file__).parent.parent.parent
QUICK = ("--size", "200", "--rounds", "1")


def run(*words: str, env: dict[str, str] | None = None) -> Any:
    """Run the command in a process of its own and return its JSON."""
    command_line = [sys.executable, "-m", "benchmarks"]
    ran = subprocess.run(
        [*command_line, "--json", *QUICK, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **(env or {})},
        cwd=CHECKOUT,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def given(embedded: Servers, settings: Settings) -> Settings:
    """Settings whose Redis databases no other test uses."""
    broker = settings.broker_url.replace("virtual_host=1", "virtual_host=8")
    url = embedded.redis_url(7)
    return replace(settings, redis_url=url, broker_url=broker, result_url=broker, key_prefix="")


def start(*words: str, env: dict[str, str] | None = None) -> None:
    """Run the command here; its errors come out."""
    CliRunner(env=env).invoke(
        command.bench, [*QUICK, *words], standalone_mode=False, catch_exceptions=False
    )


def test_the_warm_up_round_does_not_count_and_there_is_no_ratio_to_0() -> None:
    rows = iter([100.0, 2.0, 4.0, 3.0])
    contest = Contest(
        "save",
        "rows",
        {
            "ours": lambda: next(rows),
            "theirs": lambda: {"rows": 6.0, "bytes/s": 1.0},
            "none": float,
        },
    )
    by_unit = {result.unit: result.to_json() for result in compete(contest, 3)}
    ours = by_unit["rows"]["contestants"]["ours"]
    assert ours == {"median": 3.0, "rounds": [2.0, 4.0, 3.0], "ratios": {"theirs": 2.0}}
    assert not by_unit["rows"]["higher_is_better"]
    assert by_unit["bytes/s"]["higher_is_better"]


def test_each_benchmark_is_a_module_with_a_function_of_the_same_name() -> None:
    modules = {path.stem for path in Path(*cases.__path__).glob("*.py")} - {"__init__"}
    assert modules == set(cases.NAMES)
    assert all(callable(cases.load(name)) for name in cases.NAMES)


def test_the_buckets_of_a_profile_name_code_that_exists() -> None:
    for bucket in BUCKETS:
        module = import_module(bucket.module)
        classes = [item for item in vars(module).values() if isinstance(item, type)]
        for function in bucket.functions:
            assert any(function in vars(cls) for cls in classes), (bucket.module, function)


@pytest.mark.parametrize(
    ("variable", "value", "status"),
    [("STATESYNC_REDIS_URL", "redis://127.0.0.1:1/0", 1), ("STATESYNC_NO_SUCH", "1", 2)],
)
def test_an_error_is_one_line_and_a_status(variable: str, value: str, status: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", "hot", "--servers", "settings"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, variable: value},
        cwd=CHECKOUT,
    )
    assert ran.returncode == status
    assert ran.stderr.startswith("benchmarks: ")
    assert ran.stderr.count("\n") <= 2  # and what the progress line leaves
    assert "Traceback" not in ran.stderr


def test_children_import_this_checkout_from_any_folder(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-P", "-c", "import benchmarks as b; print(b.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        env=child_env(),
        cwd=tmp_path,
    )
    assert Path(ran.stdout.strip()).is_relative_to(CHECKOUT)


def test_a_chart_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: name != "matplotlib")
    with pytest.raises(ClickException, match=r"pip install -e '\.\[bench\]'"):
        start("hot", "--plot", "chart.svg")


def test_the_seconds_of_a_tail_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    chart = tmp_path / "chart.svg"
    seconds = [
        Result("update", SECOND.format(i, 2), {"statesync": [i * 1000.0], "older": [i * 9000.0]})
        for i in (1, 2)
    ]
    write_chart(seconds, chart)
    drawn = chart.read_text()
    assert all(f"<!-- {name} -->" in drawn for name in ("statesync", "older"))
    with pytest.raises(InvalidInput, match="no chart"):
        write_chart([Result("update", "µs", {"statesync": [1.0]})], chart)


def test_servers_that_hold_anything_are_left_alone(given: Settings, engine: Engine) -> None:
    client = redis.Redis.from_url(given.redis_url)
    client.set("a stranger's", "data")
    with pytest.raises(InvalidInput, match="Redis database"):
        start("hot", "--servers", "settings", env=given.to_env())
    assert client.get("a stranger's") == b"data"
    client.flushdb()
    client.close()
    with engine.begin() as connection:
        connection.execute(insert(characters).values(id=7))
    with pytest.raises(InvalidInput, match="table characters"):
        start("hot", "--servers", "settings", env=given.to_env())
    with engine.begin() as connection:
        assert connection.execute(select(func.count()).select_from(characters)).scalar() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.NAMES)
def test_each_benchmark_runs_and_reports_in_json(name: str) -> None:
    results = run(name)["results"]
    assert results
    for result in results:
        assert all(result["contestants"].values()), result["name"]


@pytest.mark.slow
def test_another_checkout_takes_turns_with_this_one() -> None:
    results = run("save", "--in-session", "0", "--beside", str(CHECKOUT))["results"]
    assert results[0]["unit"] == CPU_UNIT
    assert all(set(r["contestants"]) == {"statesync", CHECKOUT.name, "floor"} for r in results)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no checkout"):
        start("save", "--beside", str(tmp_path))


@pytest.mark.slow
def test_given_servers_are_used_and_left_empty(given: Settings) -> None:
    assert run("hot", "--servers", "settings", env=given.to_env())["servers"] == "settings"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "NAMES", ())
        start("--servers", "settings", env=given.to_env())  # refused if not empty


@pytest.mark.slow
def test_a_round_trip_takes_the_delay_and_a_chart_is_written(tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    results = run("restore", "--delay-ms", "5", "--plot", str(chart))["results"]
    one = next(r["contestants"] for r in results if r["name"] == "restore of one")
    assert one["empty round trips"]["median"] > 2 * 5000
    assert chart.read_text().startswith("<?xml")
