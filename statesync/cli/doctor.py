"""Owns `statesync doctor`: whether all is set up so that nothing is lost, and what to do if not."""

from __future__ import annotations

import os
import platform
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version as version_of

import click
from rich.text import Text

from statesync.cli.broker import check_broker, check_results, problem_of, server_name
from statesync.cli.checks import COLOURS, Check, CheckStatus, checked
from statesync.cli.common import as_json, connected, console, print_json, table
from statesync.cli.losses import check_losses
from statesync.cli.turns import turn
from statesync.cli.workers import check_workers
from statesync.durable import database
from statesync.durable import migrate as migrations
from statesync.durable.limits import different_limits
from statesync.durable.rights import missing_grants
from statesync.errors import (
    DatabaseForbidden,
    NotMigrated,
    RedisForbidden,
    ServerUnavailable,
    SettingsError,
)
from statesync.hot.commands.health import Examined
from statesync.hot.rights import is_refusal
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.settings import PREFIX, Settings
from statesync.worker.names import QueueName

__all__ = ["doctor"]

_SAMPLE = 200
"""How many cores are looked at for a time to live."""
_SAMPLE_PAGES = 50
"""How many pages of keys are read to find them."""
_DEAD_INTERVALS = 3
"""After so many intervals without a sweep the schedule counts as dead."""
_FLOWER_SECONDS = 3
_MIB = 2**20
_TIGHT = 0.8
"""From this share of its memory on, Redis counts as almost full."""
_SKEW_SECONDS = 2.0
_OLDEST_REDIS = (6, 2)
_OLDEST_POSTGRESQL = 12


Ask = Callable[[GameStateOrchestrator, Settings], Iterator[Check]]


def _redis(orchestrator: GameStateOrchestrator, _: Settings) -> Iterator[Check]:
    yield _rights_in_redis(orchestrator.hot)
    char_ids, is_complete = _sample(orchestrator.hot)
    examined = orchestrator.hot.examine(char_ids)
    yield _version_of_redis(examined.info)
    yield _eviction(examined.info)
    yield _memory(examined)
    yield _persistence(examined.info)
    if examined.info.get("role") in ("slave", "replica"):
        yield checked("role", "a replica", fail="point STATESYNC_REDIS_URL at the master")
    sample = f"{len(char_ids)} cores{'' if is_complete else ', a sample'}"
    if examined.expiring:
        some = ", ".join(map(str, examined.expiring[:5]))
        yield checked(
            "time to live",
            f"{len(examined.expiring)} of {sample} would expire: {some}",
            fail="find what sets EXPIRE on ac:*, and PERSIST them: unsaved changes vanish too",
        )
    else:
        yield checked("time to live", f"none of {sample} would expire")


def _rights_in_redis(hot: HotStore) -> Check:
    lacking = hot.lacking_rights()
    found = "not told by this Redis, which is older than 7" if lacking is None else "all we need"
    if not lacking:
        return checked("rights in redis", found)
    advice = f"ACL SETUSER {hot.user} {' '.join(lacking)}"
    return checked("rights in redis", f"{len(lacking)} commands are missing", fail=advice)


def _eviction(info: dict[str, str]) -> Check:
    policy, limit = info.get("maxmemory_policy", "unknown"), int(info.get("maxmemory", 0))
    found = f"{policy} {f'at {limit // _MIB} MiB' if limit else 'without a limit'}"
    advice = "CONFIG SET maxmemory-policy noeviction"
    if policy == "noeviction":
        return checked("eviction", found)
    if limit and policy.startswith("allkeys"):
        return checked("eviction", found, fail=f"{advice}: it deletes unsaved characters")
    return checked("eviction", found, warn=advice)


def _memory(examined: Examined) -> Check:
    """Check how full the memory is, and say how it has grown."""
    info = examined.info
    used, limit, of_what = int(info["used_memory"]), int(info.get("maxmemory", 0)), "maxmemory"
    if not limit:
        limit, of_what = int(info.get("total_system_memory", 0)), "the machine's memory"
    found = f"{used / _MIB:,.0f} MiB are used"
    if limit:
        found += f", {used / limit:.0%} of {of_what}"
    if examined.before:
        growth, hours = used - examined.before.used_bytes, examined.before.age_ms / 3_600_000
        found += f"; {round(growth / _MIB):+,d} MiB in the last {hours:.1f} hours"
    is_tight = limit and used >= _TIGHT * limit
    advice = "give it more, or log out who does not play: when it is full, it takes no changes"
    if limit and used >= limit:
        return checked("memory", found, fail=advice)
    return checked("memory", found, warn=advice if is_tight else "")


def _sample(hot: HotStore) -> tuple[list[int], bool]:
    """Return the ids of some loaded characters, and whether there are no others."""
    char_ids: list[int] = []
    cursor = 0
    for _ in range(_SAMPLE_PAGES):
        page = hot.scan(cursor, count=_SAMPLE)
        char_ids += page.char_ids
        cursor = page.cursor
        if cursor == 0 or len(char_ids) >= _SAMPLE:
            break
    return char_ids[:_SAMPLE], cursor == 0 and len(char_ids) <= _SAMPLE


def _version_of_redis(info: dict[str, str]) -> Check:
    is_old = tuple(map(int, info["redis_version"].split(".")[:2])) < _OLDEST_REDIS
    advice = "Redis 6.2 or newer is needed" if is_old else ""
    return checked("redis", server_name(info), fail=advice)


def _persistence(info: dict[str, str]) -> Check:
    if info.get("aof_enabled") != "1":
        advice = "CONFIG SET appendonly yes: a restart of Redis forgets what is not saved yet"
        return checked("persistence", "the append-only file is off", warn=advice)
    if info.get("aof_last_write_status", "ok") != "ok":
        advice = "look into the server's log, and at its disk"
        return checked("persistence", "the append-only file cannot be written", fail=advice)
    return checked("persistence", "the append-only file is on")


def _postgresql(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    with database.transaction(orchestrator.engine) as connection:
        query = "SELECT current_setting('server_version'), pg_is_in_recovery()"
        version, is_replica = connection.exec_driver_sql(query).one()
        limits = "; ".join(different_limits(connection, settings))
    advice = ""
    if int(version.split(".")[0]) < _OLDEST_POSTGRESQL:
        advice = f"PostgreSQL {_OLDEST_POSTGRESQL} or newer is needed"
    elif is_replica:
        advice = "it is a replica: point STATESYNC_DATABASE_URL at the primary"
    yield checked("postgresql", f"PostgreSQL {version}", fail=advice)
    yield checked(
        "time limits",
        limits or "in force in every transaction",
        fail="find what stands before PostgreSQL and drops `SET LOCAL`" * bool(limits),
    )
    revision, head = migrations.revision(orchestrator.engine), migrations.head()
    advice = "" if revision == head else f"run `statesync migrate`: the newest is {head}"
    found = f"revision {revision}" if revision else "no tables yet"
    yield checked("migrations", found, fail=advice)
    with database.transaction(orchestrator.engine) as connection:
        grants = missing_grants(connection)
    found = f"{len(grants)} are missing" if grants else "all that a worker needs"
    yield checked("rights", found, fail="; ".join(grants))


def _clocks(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    def ask_redis() -> float:
        return orchestrator.hot.examine([]).now_us / 1e6

    def ask_postgresql() -> float:
        with database.transaction(orchestrator.engine) as connection:
            query = "SELECT extract(epoch FROM clock_timestamp())"
            return float(connection.exec_driver_sql(query).scalar_one())

    skews = {"Redis": _skew(ask_redis), "PostgreSQL": _skew(ask_postgresql)}
    found = ", ".join(f"{name} {skew:+.1f} s" for name, skew in skews.items())
    spread = max(0.0, *skews.values()) - min(0.0, *skews.values())
    advice = "run NTP on every machine"
    # A message expires with the lease, by the clocks of beat and the workers.
    is_fatal = spread >= settings.lease_seconds
    yield checked(
        "clocks",
        f"{found}, seen from here",
        fail=f"{advice}: messages expire before they arrive" if is_fatal else "",
        warn=advice if spread > _SKEW_SECONDS else "",
    )


def _skew(ask: Callable[[], float]) -> float:
    """Return how far a server's clock is ahead of ours: zero within the time that asking took."""
    ask()  # the first time, it also connects and loads scripts
    before = time.time()
    server_time = ask()
    after = time.time()
    return server_time - after if server_time > after else min(0.0, server_time - before)


def _beat(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    age = orchestrator.hot.examine([]).heartbeat_ms
    is_dead = age is None or age > _DEAD_INTERVALS * settings.sync_seconds * 1000
    last_sweep = (
        "no scheduled sweep has come in yet"
        if age is None
        else f"last sweep {age / 1000:.0f} s ago"
    )
    yield checked(
        "beat",
        f"{last_sweep}; one every {settings.sync_seconds} s",
        fail=(
            f"start `celery -A statesync beat`, and a worker on {settings.queue(QueueName.SYNC)}"
            if is_dead
            else ""
        ),
    )


def _flower(_: GameStateOrchestrator, __: Settings) -> Iterator[Check]:
    if os.environ.get("FLOWER_UNAUTHENTICATED_API", "").lower() in ("1", "true", "yes", "on"):
        advice = "unset FLOWER_UNAUTHENTICATED_API: whoever reaches Flower can stop workers"
        yield checked("flower", "its API asks for no password", fail=advice)
        return
    host = os.environ.get("FLOWER_ADDRESS", "").replace("0.0.0.0", "") or "127.0.0.1"  # noqa: S104
    address = f"{host}:{os.environ.get('FLOWER_PORT') or 5555}"
    try:
        with urllib.request.urlopen(f"http://{address}/workers", timeout=_FLOWER_SECONDS) as answer:
            is_flower = "Tornado" in answer.headers.get("Server", "")
    except urllib.error.HTTPError as error:
        yield checked("flower", f"at {address} it asks for a password ({error.code})")
    except (OSError, ValueError):
        yield checked("flower", f"none at {address}")
    else:
        advice = "set FLOWER_BASIC_AUTH=user:password: whoever reaches it can stop workers"
        yield checked(
            "flower",
            f"at {address} it asks for no password" if is_flower else f"none at {address}",
            fail=advice if is_flower else "",
        )


def _versions(_: GameStateOrchestrator, __: Settings) -> Iterator[Check]:
    packages = ("statesync", "celery", "kombu", "redis", "SQLAlchemy", "psycopg2-binary", "flower")
    found = ", ".join(f"{name} {version_of(name)}" for name in packages)
    yield checked("versions", f"Python {platform.python_version()}, {found}")


_ASK: dict[str, Ask] = {
    "redis": _redis,
    "postgresql": _postgresql,
    "losses": check_losses,
    "clocks": _clocks,
    "broker": check_broker,
    "results": check_results,
    "workers": check_workers,
    "beat": _beat,
    "flower": _flower,
    "versions": _versions,
}


_OF_ALL_REALMS = ("broker", "results", "flower", "versions")
"""What is checked once, however many realms there are."""
_CELERY = {
    "broker": ("the broker", "broker_url"),
    "workers": ("the broker", "broker_url"),
    "results": ("the results", "result_url"),
}
"""What Celery connects to: its name, and the setting with its URL."""


def _examine(name: str, orchestrator: GameStateOrchestrator, settings: Settings) -> list[Check]:
    """Return the checks of one group. A server that is away is a failed check, and the last one."""
    found: list[Check] = []
    try:
        for check in _ASK[name](orchestrator, settings):
            found.append(check)  # noqa: PERF402
    except (DatabaseForbidden, RedisForbidden) as error:
        advice = "give its user the login or the right, or mend its URL"
        found.append(checked(name, str(error), fail=advice))
    except ServerUnavailable as error:
        found.append(checked(name, str(error), fail="start it, or mend its URL"))
    except SettingsError as error:
        found.append(checked(name, str(error), fail="mend the setting"))
    except NotMigrated as error:
        found.append(checked(name, str(error), fail="run `statesync migrate`"))
    except Exception as error:
        if name not in _CELERY:
            raise
        what, url = _CELERY[name]
        away = problem_of(error, what, getattr(settings, url))
        advice = f"{_advice(error)}, or mend {PREFIX}{url.upper()}"
        found.append(checked(name, away, fail=advice))
    return found


def _advice(error: Exception) -> str:
    if "OutOfMemory" in type(error).__name__ or "OOM " in str(error):
        return "give it more memory (`statesync drain` needs no broker)"
    return "give its user the login or the right" if is_refusal(error) else "start it"


@click.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(_ASK)),
    help="Check this alone; may be given several times.",
)
@as_json
def doctor(only: tuple[str, ...], as_json: bool) -> None:
    """Check servers, settings and processes, and say what to do if something is wrong.

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
            if (not only or name in only) and (turn().is_first or name not in _OF_ALL_REALMS)
            for check in _examine(name, orchestrator, settings)
        ]
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        rows = table("check", "", "found", "do")
        for check in checks:
            status = Text(check.status, style=COLOURS[check.status])
            rows.add_row(check.check, status, check.found, check.do)
        console.print(rows)
    if any(check.status == CheckStatus.FAIL for check in checks):
        sys.exit(1)
