"""Owns a RabbitMQ for the tests: the system's package, on loopback and in a private folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import amqp
import pytest

from statesync.embedded.child import Child, run_as
from tests.ports import free_port

__all__ = ["RabbitMQ", "rabbitmq_server"]

_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Not the one in the PATH, which wants the folders of the system's own server."""
_LEVELS = 28
"""Queues for messages that wait for a countdown, which Celery declares."""


class RabbitMQ:
    """A RabbitMQ that can be killed and started again on its data."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self.port = free_port()
        self._env = env = _environment(folder, self.port)
        self._folder, self._user = folder, user
        self._epmd = Child("epmd", ["epmd"], folder / "epmd.log", env=env, cwd=folder, user=user)
        command = [str(_PROGRAM)]
        self.child = Child(
            "RabbitMQ", command, folder / "rabbitmq.log", env=env, cwd=folder, user=user
        )

    @property
    def url(self) -> str:
        """The URL of its broker."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        if not self._epmd.running:
            self._epmd.start()
        self.child.start()
        self.child.wait_ready(self._is_ready)

    def empty(self, *queues: str) -> None:
        """Delete the messages of queues, and those that wait for a countdown."""
        delayed = [f"celery_delayed_{level}" for level in range(_LEVELS)]
        with self.connect() as connection:
            for queue in (*queues, *delayed):
                with suppress(amqp.NotFound):
                    connection.channel().queue_purge(queue)

    def delete(self, *queues: str) -> None:
        """Delete queues, if there are any."""
        with self.connect() as connection:
            for queue in queues:
                connection.channel().queue_delete(queue)

    def queues(self) -> set[str]:
        """Return the names of all queues."""
        told = self.control("list_queues", "--quiet", "--formatter", "json", "name")
        return {queue["name"] for queue in json.loads(told)}

    def control(self, *words: str) -> str:
        """Return what ``rabbitmqctl`` prints."""
        ran = subprocess.run(
            [str(_PROGRAM.with_name("rabbitmqctl")), *words],
            env=self._env,
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=True,
            **run_as(self._user),
        )
        return str(ran.stdout)

    def signal(self, number: signal.Signals) -> None:
        """Signal the server and what it has started."""
        assert self.child.process
        os.killpg(self.child.process.pid, number)

    def connect(self) -> amqp.Connection:
        """Return a connection to it."""
        connection = amqp.Connection(f"127.0.0.1:{self.port}", connect_timeout=5)
        connection.connect()
        return connection

    def stop(self) -> None:
        """End it, and what it has started."""
        self.child.kill()
        self._epmd.kill()

    def _is_ready(self) -> bool:
        with suppress(OSError, amqp.AMQPError), self.connect():
            return True
        return False


@contextmanager
def rabbitmq_server() -> Iterator[RabbitMQ]:
    """Run a RabbitMQ; skip the test if it is not installed."""
    if not _PROGRAM.exists():
        pytest.skip(f"RabbitMQ is not installed: there is no {_PROGRAM}")
    folder = Path(tempfile.mkdtemp(prefix="statesync-rabbitmq-"))
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    server = RabbitMQ(folder, user)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path, port: int) -> dict[str, str]:
    """Return what keeps everything of the server in ``folder`` and on loopback."""
    loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(free_port()),
        "RABBITMQ_NODENAME": "statesync@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{loopback} +sbwt none +S 2:2",
    }
