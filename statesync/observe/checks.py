"""Owns the checks of the doctor: which there are, and what it means if one cannot be made."""

from __future__ import annotations

import platform
from collections.abc import Callable, Container, Iterator
from functools import partial
from importlib.metadata import version as version_of

from statesync.errors import (
    CorruptState,
    DatabaseForbidden,
    NotMigrated,
    RedisForbidden,
    ServerUnavailable,
    SettingsError,
)
from statesync.hot.commands.troubles import Server
from statesync.hot.rights import is_refusal
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.troubles import server_of
from statesync.observe.backlog import check_backlog
from statesync.observe.beat import check_beat
from statesync.observe.broker import check_broker, check_results, problem_of
from statesync.observe.check import Check, Group, Topic, checked
from statesync.observe.clocks import check_clocks
from statesync.observe.conflicts import check_conflicts
from statesync.observe.flower import check_flower
from statesync.observe.losses import check_losses
from statesync.observe.postgresql import check_postgresql
from statesync.observe.redis import check_redis
from statesync.observe.troubles import check_troubles
from statesync.observe.workers import Fleet, check_workers
from statesync.settings import PREFIX, Settings

__all__ = ["OF_ALL_REALMS", "run"]

Ask = Callable[[GameStateOrchestrator, Settings], Iterator[Check]]

OF_ALL_REALMS = (Group.BROKER, Group.RESULTS, Group.FLOWER, Group.VERSIONS)
"""What is the same in all realms: to check it in one of them is enough."""
_CELERY = {
    Group.BROKER: ("the broker", "broker_url", Server.BROKER),
    Group.WORKERS: ("the broker", "broker_url", Server.BROKER),
    Group.RESULTS: ("the results", "result_url", None),
}
"""What Celery connects to: its name, the setting with its URL, and which server that is."""


def run(
    orchestrator: GameStateOrchestrator,
    settings: Settings,
    fleet: Fleet,
    *,
    only: Container[Group] = frozenset(Group),
) -> list[Check]:
    """Make the checks of some groups in one realm; a server that is away is a failed check.

    The workers of ``fleet`` are asked if a check is about them; give the same fleet to the calls
    of all realms.
    """
    asks = _ASKS | {
        Group.WORKERS: partial(check_workers, fleet),
        Group.BEAT: partial(check_beat, fleet),
    }
    return [
        check
        for group in Group
        if group in only
        for check in _examine(group, asks[group], orchestrator, settings)
    ]


def _examine(
    group: Group, ask: Ask, orchestrator: GameStateOrchestrator, settings: Settings
) -> list[Check]:
    """Return the checks of one group. A server that is away is a failed check, and the last one."""
    found: list[Check] = []
    topic = Topic(group)
    try:
        for check in ask(orchestrator, settings):
            found.append(check)  # noqa: PERF402
    except (DatabaseForbidden, RedisForbidden) as error:
        advice = "give its user the login or the right, or mend its URL"
        found.append(checked(topic, str(error), fail=advice))
    except ServerUnavailable as error:
        advice = "start it, or mend its URL"
        found.append(checked(topic, str(error), fail=advice, away=server_of(error)))
    except SettingsError as error:
        found.append(checked(topic, str(error), fail="mend the setting"))
    except CorruptState as error:
        found.append(checked(topic, str(error), fail="find who else writes there, and delete it"))
    except NotMigrated as error:
        found.append(checked(topic, str(error), fail="run `statesync migrate`"))
    except Exception as error:
        if group not in _CELERY:
            raise
        what, url, server = _CELERY[group]
        problem = problem_of(error, what, getattr(settings, url))
        advice = f"{_advice(error)}, or mend {PREFIX}{url.upper()}"
        found.append(checked(topic, problem, fail=advice, away=server))
    return found


def _advice(error: Exception) -> str:
    if "OutOfMemory" in type(error).__name__ or "OOM " in str(error):
        return "give it more memory (`statesync drain` needs no broker)"
    return "give its user the login or the right" if is_refusal(error) else "start it"


def _check_versions(_: GameStateOrchestrator, __: Settings) -> Iterator[Check]:
    packages = ("statesync", "celery", "kombu", "redis", "SQLAlchemy", "psycopg2-binary", "flower")
    found = ", ".join(f"{name} {version_of(name)}" for name in packages)
    yield checked(Topic.VERSIONS, f"Python {platform.python_version()}, {found}")


_ASKS: dict[Group, Ask] = {
    Group.REDIS: check_redis,
    Group.POSTGRESQL: check_postgresql,
    Group.BACKLOG: check_backlog,
    Group.TROUBLES: check_troubles,
    Group.LOSSES: check_losses,
    Group.CONFLICTS: check_conflicts,
    Group.CLOCKS: check_clocks,
    Group.BROKER: check_broker,
    Group.RESULTS: check_results,
    Group.FLOWER: check_flower,
    Group.VERSIONS: _check_versions,
}
