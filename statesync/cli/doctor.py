"""Owns `statesync doctor`: is all set up so that the promise holds, and what to do if not."""

from __future__ import annotations

import os
import platform
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version as version_of
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click
from rich.markup import escape

from statesync.cli.common import as_json, connected, console, print_json, table
from statesync.durable import database
from statesync.durable import migrate as migrations
from statesync.errors import BrokerUnavailable, ServerUnavailable
from statesync.hot.commands.operators import Examined
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import Settings

__all__ = ["doctor"]

_SAMPLE = 200
"""How many cores are looked at for a time to live."""
_PAGES = 50
_INTERVALS = 3
"""After so many intervals without a sweep the schedule counts as dead."""
_RETRY_SECONDS = 60
"""The longest wait of a task for its next try."""
_SKEW_SECONDS = 2.0
_OLDEST_REDIS = (6, 2)
_OLDEST_POSTGRESQL = 12
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found; ``do`` is empty where it is ``ok``."""

    check: str
    status: str
    found: str
    do: str = ""


def _check(name: str, found: str, *, warn: str = "", fail: str = "") -> Check:
    """Return a check that is ok unless one of ``warn`` and ``fail`` says what to do."""
    status = "fail" if fail else "warn" if warn else "ok"
    return Check(name, status, found, fail or warn)


Ask = Callable[[GameStateOrchestrator, Settings], Iterator[Check]]


def _redis(orchestrator: GameStateOrchestrator, _: Settings) -> Iterator[Check]:
    char_ids, complete = _sample(orchestrator.hot)
    found = orchestrator.hot.examine(char_ids)
    info = found.info
    yield _version_of_redis(info)
    policy, limit = info.get("maxmemory_policy", "unknown"), int(info.get("maxmemory", 0))
    at = f"at {limit // 2**20} MiB" if limit else "without a limit"
    told = "CONFIG SET maxmemory-policy noeviction"
    if policy == "noeviction":
        yield _check("eviction", f"{policy} {at}")
    elif limit and policy.startswith("allkeys"):
        yield _check("eviction", f"{policy} {at}", fail=f"{told}: it deletes unsaved characters")
    else:
        yield _check("eviction", f"{policy} {at}", warn=told)
    yield _persistence(info)
    if info.get("role") in ("slave", "replica"):
        yield _check("role", "a replica", fail="point STATESYNC_REDIS_URL at the master")
    looked = f"{len(char_ids)} cores{'' if complete else ', a sample'}"
    if found.expiring:
        some = ", ".join(map(str, found.expiring[:5]))
        yield _check(
            "time to live",
            f"{len(found.expiring)} of {looked} would expire: {some}",
            fail="find who sets EXPIRE on ac:*, and PERSIST them: they vanish with what is unsaved",
        )
    else:
        yield _check("time to live", f"none of {looked} would expire")


def _sample(hot: HotStore) -> tuple[list[int], bool]:
    """Return the ids of some loaded characters, and whether they are all."""
    char_ids: list[int] = []
    cursor = 0
    for _ in range(_PAGES):
        page = hot.scan(cursor, count=_SAMPLE)
        char_ids += page.char_ids
        cursor = page.cursor
        if cursor == 0 or len(char_ids) >= _SAMPLE:
            break
    return char_ids[:_SAMPLE], cursor == 0 and len(char_ids) <= _SAMPLE


def _version_of_redis(info: dict[str, str]) -> Check:
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version", info["redis_version"])
    old = tuple(map(int, info["redis_version"].split(".")[:2])) < _OLDEST_REDIS
    return _check("redis", f"{name} {version}", fail="Redis 6.2 or newer is needed" if old else "")


def _persistence(info: dict[str, str]) -> Check:
    if info.get("aof_enabled") != "1":
        told = "CONFIG SET appendonly yes: a restart of Redis forgets what is not saved yet"
        return _check("persistence", "the append-only file is off", warn=told)
    if info.get("aof_last_write_status", "ok") != "ok":
        told = "look into the server's log, and at its disk"
        return _check("persistence", "the append-only file cannot be written", fail=told)
    return _check("persistence", "the append-only file is on")


def _postgresql(orchestrator: GameStateOrchestrator, _: Settings) -> Iterator[Check]:
    with database.transaction(orchestrator.engine) as connection:
        query = "SELECT current_setting('server_version'), pg_is_in_recovery()"
        version, replica = connection.exec_driver_sql(query).one()
    told = ""
    if int(version.split(".")[0]) < _OLDEST_POSTGRESQL:
        told = f"PostgreSQL {_OLDEST_POSTGRESQL} or newer is needed"
    elif replica:
        told = "it is a replica: point STATESYNC_DATABASE_URL at the primary"
    yield _check("postgresql", f"PostgreSQL {version}", fail=told)
    revision, head = migrations.revision(orchestrator.engine), migrations.head()
    told = "" if revision == head else f"run `statesync migrate`: the newest is {head}"
    yield _check("migrations", f"revision {revision}", fail=told)


def _clocks(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    def ask_redis() -> float:
        return orchestrator.hot.examine([]).now_us / 1e6

    def ask_postgresql() -> float:
        with database.transaction(orchestrator.engine) as connection:
            query = "SELECT extract(epoch FROM clock_timestamp())"
            return float(connection.exec_driver_sql(query).scalar_one())

    skews = {"Redis": _skew(ask_redis), "PostgreSQL": _skew(ask_postgresql)}
    found = ", ".join(f"{name} {skew:+.1f} s" for name, skew in skews.items())
    apart = max(0.0, *skews.values()) - min(0.0, *skews.values())
    told = "run NTP on every machine"
    # Messages expire with the lease, by the clocks of beat and workers.
    bad = apart >= settings.lease_seconds
    yield _check(
        "clocks",
        f"{found}, seen from here",
        fail=f"{told}: messages expire before they arrive" if bad else "",
        warn=told if apart > _SKEW_SECONDS else "",
    )


def _skew(ask: Callable[[], float]) -> float:
    """Return how far a server's clock is ahead of ours: zero within the time that asking took."""
    ask()  # connects, and loads what is to be loaded
    before = time.time()
    there = ask()
    after = time.time()
    return there - after if there > after else min(0.0, there - before)


def _broker(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    from statesync.worker.app import app

    with app.connection_for_read(transport_options={"max_retries": 0}) as connection:
        channel: Any = connection.default_channel
        transport = connection.transport.driver_type
        if transport != "redis":
            yield _check("broker", transport)
            return
        info = channel.client.info()
        db = channel.client.connection_pool.connection_kwargs.get("db") or 0
    yield _check("broker", f"database {db} of {info['redis_version']}")
    shared = _is_ours(orchestrator.hot.examine([]), settings, info["run_id"], int(db))
    told = "set STATESYNC_BROKER_URL to another one: who empties the broker, deletes the game"
    yield _check(
        "databases",
        "broker and state share one" if shared else "broker and state are apart",
        fail=told if shared else "",
    )
    timeout = app.conf.broker_transport_options.get("visibility_timeout", 3600)
    least = settings.lease_seconds + _RETRY_SECONDS
    yield _check(
        "visibility timeout",
        f"{timeout} s, for a lease of {settings.lease_seconds} s",
        fail="" if timeout >= least else f"set it to {least} s at least: tasks run twice at once",
    )


def _is_ours(found: Examined, settings: Settings, run_id: str, db: int) -> bool:
    parts = urlsplit(settings.redis_url)
    given = parse_qs(parts.query).get("db", [""])[0]
    if not given and parts.scheme != "unix":
        given = parts.path.strip("/")
    return found.info["run_id"] == run_id and int(given or 0) == db


def _workers(_: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    from statesync.worker.app import app

    answers = app.control.inspect(timeout=2).active_queues() or {}
    served = {queue["name"] for queues in answers.values() for queue in queues}
    for name in ("restore", "sync", "backup"):
        queue = settings.queue(name)
        missing = queue not in served
        yield _check(
            f"queue {queue}",
            "nobody serves it" if missing else f"served, {len(answers)} workers in all",
            fail=f"start `celery -A statesync worker -Q {queue}`" if missing else "",
        )


def _beat(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    age = orchestrator.hot.examine([]).heartbeat_ms
    dead = age is None or age > _INTERVALS * settings.sync_seconds * 1000
    ago = (
        "no scheduled sweep has come in yet"
        if age is None
        else f"last sweep {age / 1000:.0f} s ago"
    )
    told = f"start `celery -A statesync beat`, and a worker on {settings.queue('sync')}"
    yield _check("beat", f"{ago}; one every {settings.sync_seconds} s", fail=told if dead else "")


def _flower(_: GameStateOrchestrator, __: Settings) -> Iterator[Check]:
    told = "unset FLOWER_UNAUTHENTICATED_API: whoever reaches Flower can stop workers"
    if os.environ.get("FLOWER_UNAUTHENTICATED_API", "").lower() in ("1", "true", "yes", "on"):
        yield _check("flower", "its API asks for no password", fail=told)
        return
    address = os.environ.get("FLOWER_ADDRESS", "").replace("0.0.0.0", "") or "127.0.0.1"  # noqa: S104
    where = f"{address}:{os.environ.get('FLOWER_PORT') or 5555}"
    try:
        with urllib.request.urlopen(f"http://{where}/workers", timeout=3) as answer:
            is_flower = "Tornado" in answer.headers.get("Server", "")
    except urllib.error.HTTPError as error:
        yield _check("flower", f"at {where} it asks for a password ({error.code})")
    except (OSError, ValueError):
        yield _check("flower", f"none at {where}")
    else:
        told = "set FLOWER_BASIC_AUTH=user:password: whoever reaches it can stop workers"
        yield _check(
            "flower",
            f"at {where} it asks for no password" if is_flower else f"none at {where}",
            fail=told if is_flower else "",
        )


def _versions(_: GameStateOrchestrator, __: Settings) -> Iterator[Check]:
    ours = ("statesync", "celery", "kombu", "redis", "SQLAlchemy", "psycopg2-binary", "flower")
    found = ", ".join(f"{name} {version_of(name)}" for name in ours)
    yield _check("versions", f"Python {platform.python_version()}, {found}")


_ASK: dict[str, Ask] = {
    "redis": _redis,
    "postgresql": _postgresql,
    "clocks": _clocks,
    "broker": _broker,
    "workers": _workers,
    "beat": _beat,
    "flower": _flower,
    "versions": _versions,
}


def _examine(name: str, orchestrator: GameStateOrchestrator, settings: Settings) -> list[Check]:
    """Return what was found; a server that is away is a check that failed, and the last one."""
    found: list[Check] = []
    try:
        for check in _ASK[name](orchestrator, settings):
            found.append(check)  # noqa: PERF402
    except ServerUnavailable as error:
        found.append(Check(name, "fail", str(error), "start it, or mend its URL"))
    except Exception as error:
        if name not in ("broker", "workers"):
            raise
        away = BrokerUnavailable(f"the broker: {type(error).__name__}")  # its text may hold the URL
        found.append(Check(name, "fail", str(away), "start it, or mend STATESYNC_BROKER_URL"))
    return found


@click.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(_ASK)),
    help="Ask about this alone; may be given several times.",
)
@as_json
def doctor(only: tuple[str, ...], as_json: bool) -> None:
    """Check servers, settings and processes, and say what to do where something is wrong.

    Exit status 1 if a check failed; warnings leave it 0.

    \b
    Examples:
      statesync doctor
      statesync doctor --only redis --only postgresql
      statesync doctor --json | jq '.[] | select(.status != "ok")'
    """
    with connected() as (orchestrator, settings):
        checks = [
            check
            for name in _ASK
            if not only or name in only
            for check in _examine(name, orchestrator, settings)
        ]
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        made = table("check", "", "found", "do")
        for check in checks:
            status = f"[{_COLOURS[check.status]}]{check.status}[/]"
            made.add_row(check.check, status, escape(check.found), escape(check.do))
        console.print(made)
    if any(check.status == "fail" for check in checks):
        sys.exit(1)
