"""All of production, to be broken: servers, workers, beat, players; and the audit.

A proxy before the servers slows and cuts connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg2
from sqlalchemy import create_engine, text

from statesync import Settings
from statesync.durable import database, migrate
from statesync.embedded.child import Child
from statesync.embedded.servers import Servers, servers
from statesync.embedded.stack import Stack
from statesync.hot.store import HotStore
from tests.acceptance.conftest import WAIT_SECONDS, wait_until
from tests.acceptance.topologies import BehindPgBouncer, topology

ROOT = Path(__file__).parents[2]

# Every version of a row is higher than the one before, and so is its count. A new seal alone is no
# new version.
STEPS_BACK = """
CREATE TABLE step_back (id bigint, was bigint, became bigint);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.version <= OLD.version
        AND to_jsonb(NEW) - 'seal' - 'seal_version' <> to_jsonb(OLD) - 'seal' - 'seal_version'
        OR (NEW.extra->>'n')::bigint < (OLD.extra->>'n')::bigint THEN
        INSERT INTO step_back VALUES (OLD.id, OLD.version, NEW.version);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER UPDATE ON characters FOR EACH ROW EXECUTE FUNCTION watch();
"""


class Proxy:
    """Passes connections on to the sockets of the servers; ``delay`` is in seconds, each way."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.folder = folder
        self.delay = 0.0
        self._sockets = sockets
        self._open: set[asyncio.StreamWriter] = set()
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for name in ("valkey.sock", ".s.PGSQL.5432"):
            self._run(self._listen(name))

    def cut(self) -> None:
        """Cut every open connection."""

        async def close() -> None:
            for writer in list(self._open):
                writer.transport.abort()

        self._run(close())

    def close(self) -> None:
        self.cut()
        for server in self._servers:
            self._loop.call_soon_threadsafe(server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_SECONDS)

    async def _listen(self, name: str) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                server = await asyncio.open_unix_connection(str(self._sockets / name))
            except OSError:
                writer.transport.abort()
                return
            await asyncio.gather(self._pass(reader, server[1]), self._pass(server[0], writer))

        self._servers.append(await self._serve(accept, name))

    async def _serve(self, accept: Any, name: str) -> asyncio.Server:
        return await asyncio.start_unix_server(accept, str(self.folder / name))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        self._open.discard(writer)
        writer.close()


class World:
    """The servers with a worker and beat, and the faults of a test."""

    def __init__(
        self, running: Servers, exits: contextlib.ExitStack, where: str = "single"
    ) -> None:
        self.servers = running
        self.exits = exits
        folder = Path(tempfile.mkdtemp(prefix="statesync-proxy-"))
        exits.callback(shutil.rmtree, folder, ignore_errors=True)
        # Every change that Valkey acknowledges survives its SIGKILL.
        config = running.folder / "valkey.conf"
        config.write_text(config.read_text().replace("everysec", "always"))
        running.valkey.stop()
        running.start_valkey()
        exits.callback(self.stop_valkey)
        self.proxy = Proxy(folder, running.sockets)
        exits.callback(self.proxy.close)
        short: Any = {"sync_seconds": 1, "lease_seconds": 2, "scrub_seconds": 0}
        short |= {"batch_above": 10, "batch_size": 20}
        self.topology = topology(where, running, exits)
        urls = self.topology.urls()
        self.direct = running.settings(**short, **urls)
        by_proxy: Any = {
            "redis_url": f"unix://{folder}/valkey.sock?db=0",
            "database_url": f"postgresql+psycopg2://postgres@/postgres?host={folder}",
        }
        self.settings = Settings(**short, **(by_proxy | urls))
        engine = database.connect(self.direct)
        migrate.upgrade(engine, realm=self.direct.realm)
        engine.dispose()
        self.execute(STEPS_BACK)
        self.hot = HotStore.from_settings(self.direct)
        self.keys = self.hot.keys
        exits.callback(self.hot.close)
        self.stack = Stack(running, self.settings, exits)
        self.numbers = itertools.count(1)
        self.worker = self.start_worker()
        self.beat = self.stack.start_beat()
        self.players: list[Child] = []
        self.journals: list[Path] = []
        self.faults: list[str] = []

    # Processes

    def stop_valkey(self) -> None:
        """Stop the Valkey that runs at the end: a replica may have taken the first one's place."""
        self.servers.valkey.stop()

    def start_worker(self, stop_at: str = "") -> Child:
        """Start a worker; ``stop_at`` names the failpoint at which it stops, and its file."""
        name = f"worker-{next(self.numbers)}"
        words = ("worker", "-n", f"{name}@%h", "-c", "2", "--loglevel", "INFO")
        worker = self.stack.start(name, *words, env={"STOP_SYNC_AT": stop_at})
        self.stack.wait_worker(worker)
        return worker

    def start_player(self, session_type: str, seed: int, first: int, count: int) -> None:
        journal = self.servers.folder / f"journal-{next(self.numbers)}"
        command = [sys.executable, "-m", "tests.acceptance.traffic", session_type]
        command += [*map(str, (seed, first, count)), str(journal)]
        env = {**os.environ, **self.settings.to_env()}
        log = self.servers.folder / "players.log"
        player = Child(f"player {seed}", command, log, env=env, cwd=ROOT)
        self.exits.callback(player.kill)
        player.start()
        self.players.append(player)
        self.journals.append(journal)

    def accepted(self) -> int:
        """Return the number of accepted changes."""
        return sum(p.read_bytes().count(b"\n") for p in self.journals if p.exists())

    def play_on(self, more: int = 300) -> None:
        """Wait until ``more`` changes are accepted."""
        before = self.accepted()
        wait_until(lambda: self._check_players() and self.accepted() >= before + more)

    def _check_players(self) -> bool:
        for player in self.players:
            if player.process and player.process.poll() is not None:
                raise AssertionError(player.log.read_text()[-3000:])
        return True

    def stop_players(self) -> None:
        self._check_players()
        for player in self.players:
            player.send(signal.SIGTERM)
        for player in self.players:
            assert player.process
            assert player.process.wait(WAIT_SECONDS) == 0, player.log.read_text()[-3000:]
        self.players = []

    # Faults

    def kill_worker(self) -> None:
        self.worker.kill()
        self.worker = self.start_worker()

    def stop_worker_past_its_lease(self) -> None:
        assert self.worker.process
        main = psutil.Process(self.worker.process.pid)
        family = [main, *main.children(recursive=True)]
        for process in family:
            process.suspend()
        other = self.start_worker()
        self.play_on(200)
        time.sleep(self.settings.lease_seconds)  # its lease has to end
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self.play_on(100)
        other.stop()

    def kill_beat(self) -> None:
        self.beat.kill()
        self.play_on(100)
        self.beat = self.stack.start_beat()

    def two_beats(self) -> None:
        other = self.stack.start("beat-2", "beat", "-s", str(self.servers.folder / "beat-2"))
        self.play_on(400)
        other.kill()

    def kill_postgres(self) -> None:
        """Shut PostgreSQL down at once, as a crash does, and start it again."""
        self.servers.postgres.send(signal.SIGQUIT)
        assert self.servers.postgres.process
        self.servers.postgres.process.wait(WAIT_SECONDS)
        self.servers.start_postgres()

    def kill_valkey(self) -> None:
        self.servers.valkey.kill()
        self.servers.start_valkey()

    def kill_broker(self) -> None:
        self.topology.kill_broker()

    def kill_pooler(self) -> None:
        assert isinstance(self.topology, BehindPgBouncer)
        self.topology.kill_pooler()

    def empty_broker(self) -> None:
        self.topology.empty_broker()

    def double_messages(self) -> None:
        """Deliver some of the waiting and of further tasks twice, and out of order."""
        for _ in range(20):
            for queue in ("backup", "sync"):
                self.topology.double_messages(self.direct.queue(queue))
            self.play_on(20)

    def cut_connections(self) -> None:
        for _ in range(5):
            self.proxy.cut()
            self.play_on(30)

    def slow_connections(self) -> None:
        self.proxy.delay = 0.02
        self.play_on(50)
        self.proxy.delay = 0

    def take_rights_away(self) -> None:
        """Redis refuses one command after another, in our scripts and to the broker's clients."""
        with self.topology.client() as client:
            for command in ("hset", "srem", "evalsha"):
                client.execute_command("ACL", "LOG", "RESET")
                client.execute_command("ACL", "SETUSER", "default", f"-{command}")
                wait_until(lambda: client.execute_command("ACL", "LOG"))
                client.execute_command("ACL", "SETUSER", "default", f"+{command}")
                self.play_on(50)

    def read_only_database(self) -> None:
        """PostgreSQL takes no writes, as with a full disk or after a failover."""
        self.alter("default_transaction_read_only = on")
        self.play_on(50)  # who logs out or wants it durable waits in vain: play is slow meanwhile
        self.alter("default_transaction_read_only = off")

    def alter(self, setting: str) -> None:
        self.execute(f"ALTER SYSTEM SET {setting}", "SELECT pg_reload_conf()")

    def execute(self, *statements: str) -> None:
        """Run SQL, each statement in a transaction, whatever the server's default is."""
        connection = psycopg2.connect(
            host=str(self.servers.sockets),
            user="postgres",
            dbname="postgres",
            options="-c default_transaction_read_only=off",
        )
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.close()

    def inject(self, name: str) -> None:
        self.faults.append(name)
        getattr(self, name)()

    # What must hold

    def check(self) -> str:
        """Stop the players, wait until all is saved, and compare it with their journals."""
        self.settle()
        counts = dict(self.rows("SELECT id, (extra->>'n')::bigint FROM characters"))
        log = defaultdict(set)
        for session, entry in self.rows("SELECT session_id, entry FROM combat_log"):
            log[str(session)].add(entry)
        assert self.rows("SELECT * FROM step_back") == []
        assert self.rows("SELECT * FROM state_conflicts") == []
        changes = self.changes()
        lost = [
            change
            for change in changes
            if ("n" in change and (counts.get(change["character"]) or 0) < change["n"])
            or ("fight" in change and change["entry"] not in log[change["fight"]])
        ]
        assert not lost, f"{len(lost)} of {len(changes)} lost, such as {lost[:5]}"
        self.nothing_is_left_over()
        return self.report(len(changes))

    def settle(self) -> None:
        """Stop the players and wait until all is saved."""
        self.stop_players()
        self.proxy.delay = 0
        wait_until(lambda: self.hot.status()[:2] == (0, 0))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        engine = create_engine(self.direct.database_url)
        with engine.connect() as connection:
            found = [tuple(row) for row in connection.execute(text(query))]
        engine.dispose()
        return found

    def changes(self) -> list[dict[str, Any]]:
        """Return what the players have written down."""
        return [json.loads(line) for path in self.journals for line in path.open()]

    def report(self, checked: int) -> str:
        """Say what was injected and checked since the last report."""
        self.journals = []
        faults, self.faults = self.faults, []
        return f"{len(faults)} faults ({', '.join(faults)}), {checked} changes checked, 0 lost"

    def nothing_is_left_over(self) -> None:
        with self.topology.client() as client:
            assert [*client.scan_iter(self.keys.tie("*"))] == []
            assert client.hgetall(self.keys.quarantine) == {}
            assert client.exists(self.keys.dirty, self.keys.claimed) == 0
        queues = [self.direct.queue(name) for name in ("backup", "restore")]
        wait_until(lambda: not any(map(self.topology.waiting, queues)))


@contextlib.contextmanager
def world(where: str = "single") -> Iterator[World]:
    """Run a world on the servers of a topology."""
    with running() as (servers, exits):
        yield World(servers, exits, where)


@contextlib.contextmanager
def running() -> Iterator[tuple[Servers, contextlib.ExitStack]]:
    """Run servers, with the exits of what is started on them."""
    with contextlib.ExitStack() as exits:
        yield exits.enter_context(servers(postgres_config={"fsync": "off"})), exits
