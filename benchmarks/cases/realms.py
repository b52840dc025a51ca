"""Owns ``realms``: what a character costs if as many of them are in 1, 4 or 16 realms.

And how long a change in one realm waits while another one has a backlog.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from benchmarks.bench import Bench
from benchmarks.contest import Contest, Contests
from benchmarks.processes import Cpu
from statesync.durable import database, migrate
from statesync.embedded.child import Child
from statesync.settings import Settings

__all__ = ["realms"]

_COUNTS = (1, 4, 16)
_INTERVAL_SECONDS = 2
_LOOK_SECONDS = 0.005


def realms(bench: Bench) -> Contests:
    """Sweep the same number of characters in 1, 4 and 16 realms; then one beside a backlog."""
    size = bench.sizes[0]
    with contextlib.ExitStack() as exits:
        contestants = {
            f"in {count}": exits.enter_context(_sweeps(bench, count, size)) for count in _COUNTS
        }
        yield Contest(f"sweep of {size:,} in realms", "characters/s", contestants)
    bench.clear_redis()
    with _fleet(bench, 2, sync_seconds=_INTERVAL_SECONDS) as (worlds, _), _beat(bench, worlds):
        yield Contest(
            f"one change, with an interval of {_INTERVAL_SECONDS} s",
            "ms until it is saved",
            {
                f"{size:,} wait in the other realm": lambda: _beside(worlds, size),
                "nothing does": lambda: _beside(worlds, 0),
            },
        )


@contextlib.contextmanager
def _sweeps(bench: Bench, count: int, size: int) -> Iterator[Callable[[], dict[str, float]]]:
    with _fleet(bench, count) as (worlds, worker):

        def turn() -> dict[str, float]:
            for world in worlds:
                world.write_characters(range(1, size // count + 1))
            cpu = Cpu(bench.servers, worker)
            started = time.perf_counter()
            for world in worlds:
                world.sweep()
            for world in worlds:
                world.wait_clean()
            seconds = time.perf_counter() - started
            for world in worlds:
                world.wait_idle()
                world.check_saved(range(1, size // count + 1))
            return cpu.figures(size) | {"characters/s": size / seconds}

        yield turn


def _beside(worlds: list[Bench], size: int) -> float:
    """Return how many ms a change in one realm waits, while so many wait in the other one."""
    busy, other = worlds
    busy.write_characters(range(1, size + 1))
    other.write_characters([1])
    started = time.perf_counter()
    while other.client.exists(other.keys.dirty, other.keys.claimed):
        time.sleep(_LOOK_SECONDS)
    waited = 1000 * (time.perf_counter() - started)
    busy.wait_clean()
    return waited


@contextlib.contextmanager
def _fleet(bench: Bench, count: int, **changes: Any) -> Iterator[tuple[list[Bench], Child]]:
    """Run a worker that serves so many realms, each with a schema of its own."""
    names = ",".join(f"r{count}_{number}" for number in range(count))
    url = bench.settings.database_url
    schema = f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{{realm}}"
    settings = replace(bench.settings, realms=names, database_url=schema, **changes)
    with contextlib.ExitStack() as exits:
        worlds = [exits.enter_context(_world(bench, one)) for one in settings.each_realm()]
        yield worlds, exits.enter_context(bench.worker(**_changed(settings, **changes)))


def _changed(settings: Settings, **changes: Any) -> dict[str, Any]:
    return {"realms": settings.realms, "database_url": settings.database_url, **changes}


@contextlib.contextmanager
def _world(bench: Bench, settings: Settings) -> Iterator[Bench]:
    """Make the tables of one realm."""
    engine = database.connect(settings)
    migrate.upgrade(engine, realm=settings.realm)
    engine.dispose()
    place = bench.place._replace(settings=settings)
    world = Bench(
        place,
        sizes=bench.sizes,
        percents=[0],
        processes=bench.processes,
        realm=settings.realm,
    )
    try:
        yield world
    finally:
        world.close()


@contextlib.contextmanager
def _beat(bench: Bench, worlds: list[Bench]) -> Iterator[None]:
    names = ",".join(world.settings.realm for world in worlds)
    url = worlds[0].settings.database_url.replace(worlds[0].settings.realm, "{realm}")
    with bench.beat(realms=names, database_url=url, sync_seconds=_INTERVAL_SECONDS):
        yield
