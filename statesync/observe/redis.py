"""Owns what the doctor says of the Redis that holds the game."""

from __future__ import annotations

from collections.abc import Iterator

from statesync.hot.commands.health import Examined, unwritten
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.observe.broker import server_name
from statesync.observe.check import Check, CheckStatus, Topic, checked
from statesync.settings import Settings
from statesync.state.fields import counted

__all__ = ["check_redis", "refusals"]

_SAMPLE = 200
"""How many cores are looked at for a time to live."""
_SAMPLE_PAGES = 50
"""How many pages of keys are read to find them."""
_MIB = 2**20
_HOUR = 60
"""In minutes."""
_TIGHT = 0.8
"""From this share of its memory on, Redis counts as almost full."""
_OLDEST_REDIS = (6, 2)


def check_redis(orchestrator: GameStateOrchestrator, _: Settings) -> Iterator[Check]:
    """Check how the Redis of the game is set up, and how full it is."""
    yield _rights_in_redis(orchestrator.hot)
    char_ids, is_complete = _sample(orchestrator.hot)
    examined = orchestrator.hot.examine(char_ids)
    yield _version_of_redis(examined.info)
    yield _eviction(examined.info)
    yield _memory(examined)
    yield _persistence(examined.info)
    if examined.info.get("role") in ("slave", "replica"):
        yield checked(Topic.ROLE, "a replica", fail="point STATESYNC_REDIS_URL at the master")
    sample = f"{len(char_ids)} cores{'' if is_complete else ', a sample'}"
    if examined.expiring:
        some = ", ".join(map(str, examined.expiring[:5]))
        yield checked(
            Topic.TIME_TO_LIVE,
            f"{len(examined.expiring)} of {sample} would expire: {some}",
            fail="find what sets EXPIRE on ac:*, and PERSIST them: unsaved changes vanish too",
        )
    else:
        yield checked(Topic.TIME_TO_LIVE, f"none of {sample} would expire")


def refusals(examined: Examined) -> list[str]:
    """Say why Redis takes no changes now; nothing if it does."""
    made = (_memory(examined), _persistence(examined.info))
    return [f"Redis: {check.found}" for check in made if check.status is CheckStatus.FAIL]


def _rights_in_redis(hot: HotStore) -> Check:
    lacking = hot.lacking_rights()
    found = "not told by this Redis, which is older than 7" if lacking is None else "all we need"
    if not lacking:
        return checked(Topic.RIGHTS_IN_REDIS, found)
    advice = (
        f"ACL SETUSER {hot.user} {' '.join(lacking)}; then `statesync scrub`: marks may be lost"
    )
    return checked(
        Topic.RIGHTS_IN_REDIS,
        f"{counted(len(lacking), 'command is', 'commands are')} missing",
        fail=advice,
    )


def _eviction(info: dict[str, str]) -> Check:
    policy, limit = info.get("maxmemory_policy", "unknown"), int(info.get("maxmemory", 0))
    found = f"{policy} {f'at {limit // _MIB} MiB' if limit else 'without a limit'}"
    advice = "CONFIG SET maxmemory-policy noeviction"
    if policy == "noeviction":
        return checked(Topic.EVICTION, found)
    if limit and policy.startswith("allkeys"):
        return checked(Topic.EVICTION, found, fail=f"{advice}: it deletes unsaved characters")
    return checked(Topic.EVICTION, found, warn=advice)


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
        growth, minutes = used - examined.before.used_bytes, examined.before.age_ms / 60_000
        since = f"{minutes / 60:.1f} hours" if minutes >= _HOUR else f"{minutes:.0f} minutes"
        found += f"; {round(growth / _MIB):+,d} MiB in the last {since}"
    is_tight = limit and used >= _TIGHT * limit
    advice = "give it more (CONFIG SET maxmemory), or log out who does not play"
    if limit and used >= limit:
        full = "it is full: it takes no changes, and the game stands still"
        return checked(Topic.MEMORY, f"{found}; {full}", fail=advice)
    return checked(Topic.MEMORY, found, warn=advice if is_tight else "")


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
    return checked(Topic.REDIS, server_name(info), fail=advice)


def _persistence(info: dict[str, str]) -> Check:
    if failed := unwritten(info):
        found = f"{failed}: Redis takes no changes, and the game stands still"
        advice = "make room on its disk, or see in its log why; it goes on by itself then"
        return checked(Topic.PERSISTENCE, found, fail=advice)
    if info.get("aof_enabled") != "1":
        advice = "CONFIG SET appendonly yes: a restart of Redis forgets what is not saved yet"
        return checked(Topic.PERSISTENCE, "the append-only file is off", warn=advice)
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        found = "the append-only file could not be rewritten: it grows"
        advice = "look into the server's log, and at its disk"
        return checked(Topic.PERSISTENCE, found, warn=advice)
    return checked(Topic.PERSISTENCE, "the append-only file is on")
