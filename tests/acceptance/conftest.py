"""Real workers on the embedded servers, through pytest-celery's set-up classes.

pytest-celery thinks in containers. Its nodes ask a container for a few methods only, which a local
process can have as well.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from kombu import pools
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
)
from sqlalchemy import Engine

from statesync import GameStateOrchestrator, Settings
from statesync.embedded.child import Child
from statesync.embedded.servers import Servers, servers
from statesync.embedded.stack import Stack
from statesync.hot.store import HotStore
from statesync.observe.queues import count_messages
from statesync.worker.brokers import sender_settings
from statesync.worker.names import QueueName, of_realm
from tests.acceptance.bare import Bare
from tests.databases import Databases
from tests.rabbitmq import RabbitMQ

if TYPE_CHECKING:
    from tests.acceptance.going_back import Play

WAIT_SECONDS = 300.0
"""A limit for what never happens. It costs nothing: no test waits longer than it has to."""
LOST_SECONDS = 5.0
"""A sweep that takes longer may be lost, as when the broker restarts: another one is sent."""


TOPOLOGIES = ("cluster", "sentinel", "rabbitmq", "pgbouncer")

on_every_topology = pytest.mark.parametrize(
    "topology",
    ["single", *(pytest.param(name, marks=pytest.mark.slow) for name in TOPOLOGIES)],
    indirect=True,
)
"""Runs a test on all servers that a fleet may have."""


class LocalProcess:
    """What pytest-celery's nodes ask of a container, for a process of ours."""

    def __init__(self, name: str, url: str, child: Child, start: Callable[[], Any]) -> None:
        self.name = self.id = name
        self.child = child
        self.start = start
        self.celeryconfig = {"url": url, "host_url": url}

    @property
    def status(self) -> str:
        return "running" if self.child.process and self.child.process.poll() is None else "exited"

    def ready(self) -> bool:
        return self.status == "running"

    def logs(self) -> str:
        return self.child.log.read_text(errors="replace")

    def kill(self, signal: str | int = "SIGKILL") -> None:
        if signal == "SIGKILL":
            self.child.kill()
        else:
            self.child.stop()

    def restart(self, timeout: float = 0) -> None:
        self.child.stop()
        self.start()

    def reload(self) -> None:
        return None

    def teardown(self) -> None:
        return None


@pytest.fixture
def stack(
    embedded: Servers, settings: Settings, topology: str, request: pytest.FixtureRequest
) -> Iterator[Stack]:
    """The embedded servers with an empty broker, to start workers on."""
    if topology == "rabbitmq":
        request.getfixturevalue("rabbitmq").empty(*map(settings.queue, QueueName))
    for db in (1, 2):
        with redis.Redis.from_url(embedded.redis_url(db)) as client:
            client.flushdb()
    with contextlib.ExitStack() as exits:
        yield Stack(embedded, settings, exits)


@pytest.fixture
def celery_broker_cluster(
    embedded: Servers, settings: Settings, topology: str, request: pytest.FixtureRequest
) -> CeleryBrokerCluster:
    child, start = embedded.valkey, embedded.start_valkey
    if topology == "rabbitmq":
        server: RabbitMQ = request.getfixturevalue("rabbitmq")
        child, start = server.child, server.start
    node = LocalProcess("broker", settings.broker_url, child, start)
    return CeleryBrokerCluster(CeleryTestBroker(node))


@pytest.fixture
def celery_backend_cluster(embedded: Servers, settings: Settings) -> CeleryBackendCluster:
    node = LocalProcess("backend", settings.result_url, embedded.valkey, embedded.start_valkey)
    return CeleryBackendCluster(CeleryTestBackend(node))


@pytest.fixture
def celery_worker_cluster(stack: Stack, celery_setup_app: Celery) -> Iterator[CeleryWorkerCluster]:
    child = stack.start_worker("worker-1")
    node = LocalProcess("worker-1", "", child, lambda: stack.wait_worker(child))
    yield CeleryWorkerCluster(CeleryTestWorker(node, celery_setup_app))
    child.kill()  # faster than stopping it, and no test needs it any more


@pytest.fixture
def celery_setup_app(settings: Settings) -> Iterator[Celery]:
    """An application that knows only the broker: tasks are sent by name, as a game does."""
    pools.reset()  # a connection of an earlier test, of this process, knows queues that are gone
    app = Celery("game")
    app.conf.update(sender_settings(settings, seconds=30))
    yield app
    # A result unsubscribes when it is collected. At the end of the run, without servers, it would
    # try for minutes.
    gc.collect()
    app.close()


class Game:
    """A game server: sends tasks by name to the queues of the contract and waits for results."""

    def __init__(self, setup: CeleryTestSetup, settings: Settings, stack: Stack) -> None:
        self.app: Celery = setup.app
        self.setup = setup
        self.settings = settings
        self.stack = stack
        self.worker: Child = setup.worker.container.child

    def send(self, name: str, *args: Any, **options: Any) -> Any:
        queue = "sync" if name == "sync_dirty" else name.partition("_")[0]
        return self.app.send_task(
            f"statesync.{name}",
            args=args,
            kwargs=of_realm(self.settings),
            queue=self.settings.queue(queue),
            **options,
        )

    def call(self, name: str, *args: Any) -> Any:
        return self.send(name, *args).get(timeout=WAIT_SECONDS)

    def queued(self, name: str) -> int:
        with self.app.connection_for_read() as connection:
            return count_messages(connection, self.settings.queue(name))

    def sync_until_clean(self, hot: HotStore) -> None:
        """Sweep, as beat does, until nothing is dirty or claimed, and no sweep is under way.

        One that is still on its way could save what the test writes next.
        """
        sweep, give_up_at = None, 0.0

        def clean() -> bool:
            nonlocal sweep, give_up_at
            has_ended = False
            with contextlib.suppress(Exception):  # a server may be away
                has_ended = sweep is not None and sweep.ready()
            status = hot.status()
            if has_ended and not (status.dirty or status.claimed):
                return True
            with contextlib.suppress(Exception):
                if has_ended or time.monotonic() > give_up_at:
                    sweep = self.send("sync_dirty")
                    give_up_at = time.monotonic() + LOST_SECONDS
            return False

        wait_until(clean)

    def sync_until(self, condition: Callable[[], Any]) -> None:
        """Sweep until ``condition`` holds: on a busy machine a message may outlive its lease."""
        next_sweep = 0.0

        def holds() -> Any:
            nonlocal next_sweep
            if time.monotonic() >= next_sweep:
                self.send("sync_dirty")
                next_sweep = time.monotonic() + self.settings.lease_seconds
            return condition()

        wait_until(holds)

    def wait_for_log(self, line: str) -> None:
        """Wait until the worker logs ``line``."""
        wait_until(lambda: line.encode() in self.worker.log.read_bytes())

    def signal_worker(self, number: signal.Signals) -> None:
        """Signal the worker and its pool processes."""
        import psutil

        assert self.worker.process
        main = psutil.Process(self.worker.process.pid)
        for process in (main, *main.children(recursive=True)):
            process.send_signal(number)


@pytest.fixture
def game(celery_setup: CeleryTestSetup, settings: Settings, stack: Stack) -> Game:
    return Game(celery_setup, settings, stack)


@pytest.fixture
def bare(raw: Any, settings: Settings) -> Bare:
    return Bare(raw, settings)


@pytest.fixture(scope="session")
def own_servers() -> Iterator[Servers]:
    """Run servers that may go back in time: a replica may take the place of this Valkey."""
    with servers(postgres_config={"fsync": "off"}) as running:
        yield running
        running.valkey.stop()


@pytest.fixture(scope="session")
def own_databases(own_servers: Servers) -> Databases:
    """Return the databases on these servers."""
    return Databases(own_servers)


@pytest.fixture
def play(
    settings: Settings, orchestrator: GameStateOrchestrator, engine: Engine, raw: Any
) -> Iterator[Play]:
    from tests.acceptance.going_back import Play

    made = Play(settings, orchestrator, engine, raw)
    yield made
    made.store.close()


@contextlib.contextmanager
def middle_of_a_write(engine: Engine, char_id: int) -> Iterator[None]:
    """Hold a row, so that a worker that saves it stands in the middle of its transaction."""
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT 1 FROM characters WHERE id = {char_id} FOR UPDATE")
        yield
        connection.rollback()


def nothing_went_wrong(engine: Engine, hot: HotStore) -> None:
    """Check that no character is in quarantine and that no conflict is recorded."""
    assert hot.list_quarantine() == (0, [])
    with engine.connect() as connection:
        assert not connection.exec_driver_sql("SELECT 1 FROM state_conflicts").all()


def wait_until(condition: Callable[[], Any]) -> Any:
    """Return the first true value of ``condition``."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value
