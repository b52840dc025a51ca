"""The code in the docs is true: it runs, and its assertions hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from statesync import Settings
from statesync.embedded.servers import Servers
from tests.registry import registered

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def environment(
    embedded: Servers, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The environment of a newcomer: no key prefix, a Redis database of its own."""
    url = embedded.redis_url(9)
    for name, value in replace(settings, redis_url=url, key_prefix="").to_env().items():
        monkeypatch.setenv(name, value)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        with registered():
            yield
        client.flushdb()


def run(page: str) -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert len(blocks) > 5
    names: dict[str, Any] = {"__name__": page.replace(".", "_")}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.usefixtures("environment")
def test_trades_md() -> None:
    run("trades.md")["store"].close()


@pytest.mark.usefixtures("environment")
def test_sessions_md() -> None:
    names = run("sessions.md")
    names["orchestrator"].close()
    names["hot"].close()
    names["redis"].close()
