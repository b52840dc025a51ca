"""Owns how much is unsaved and since when, and what of the servers is in trouble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from statesync.durable import migrate as migrations
from statesync.durable.losses import Loss
from statesync.errors import CorruptState, DatabaseWentBack, NotMigrated, ServerUnavailable
from statesync.hot.commands.operators import Status
from statesync.hot.commands.troubles import Server, Trouble
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.servers import losses
from statesync.lifecycle.unknown_types import count_unknown_types
from statesync.observe import queues
from statesync.observe.backlog import count_unsaved, is_dead, late_seconds
from statesync.observe.beat import why_no_sweep
from statesync.observe.broker import problem_of
from statesync.observe.losses import loss_as_json
from statesync.observe.redis import refusals
from statesync.observe.troubles import describe_trouble
from statesync.observe.workers import list_types
from statesync.settings import Settings
from statesync.state.fields import counted
from statesync.worker.names import QueueName

__all__ = ["Gathered", "gather", "tell_unknown_types"]


@dataclass(slots=True)
class Gathered:
    """What the servers tell; of one that is away, nothing, and a problem."""

    hot: Status | None = None
    """What Redis tells."""
    sweep_ms: int | None = None
    """Since the last sweep of the schedule came in; None if there was none yet."""
    refusals: list[str] = field(default_factory=list)
    """Why Redis takes no changes now."""
    troubles: dict[Server, Trouble] = field(default_factory=dict)
    """Servers that refuse the work of workers."""
    unknown_types: dict[str, int] = field(default_factory=dict)
    """Session types, not registered here, that unsaved characters wait for."""
    revision: str | None = None
    """Of the tables in PostgreSQL."""
    losses: list[Loss] = field(default_factory=list)
    """The last servers that went back in time, newest first."""
    queues: dict[str, int] = field(default_factory=dict)
    """How many messages wait in each queue."""
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        hot = self.hot._asdict() if self.hot else dict.fromkeys(Status._fields) | {"counters": {}}
        return {
            **hot,
            "sweep_ms": self.sweep_ms,
            "troubles": {
                server: trouble._asdict() | {"works": sorted(trouble.works)}
                for server, trouble in self.troubles.items()
            },
            "unknown_types": self.unknown_types,
            "queues": self.queues,
            "revision": self.revision,
            "losses": [loss_as_json(loss) for loss in self.losses],
            "problems": self.problems,
        }


def gather(
    orchestrator: GameStateOrchestrator,
    settings: Settings,
    *,
    max_age_seconds: float | None = None,
    max_quarantined: int | None = None,
) -> Gathered:
    """Ask all servers of a realm. One that is away is a problem, and the others are asked.

    Causes come before what follows from them.

    It is a problem, too, if the oldest unsaved change is older than ``max_age_seconds``, by default
    three intervals; if something is unsaved, and no sweep came in for so long; or if more
    characters than ``max_quarantined`` are in quarantine.
    """
    found = Gathered()
    try:
        _ask_redis(found, orchestrator)
    except (ServerUnavailable, CorruptState) as error:
        found.problems.append(str(error))
    _ask_postgresql(found, orchestrator)
    try:
        found.queues = queues.count(settings)
    except Exception as error:  # each transport of a broker has its own
        found.problems.append(problem_of(error, "the broker", settings.broker_url))
    found.problems += [describe_trouble(*trouble) for trouble in sorted(found.troubles.items())]
    if found.hot:
        max_age = late_seconds(settings) if max_age_seconds is None else max_age_seconds
        found.problems += _lateness(found.hot, max_age)
        found.problems += _dead_schedule(found, found.hot, settings)
        if max_quarantined is not None and found.hot.quarantined > max_quarantined:
            quarantined = counted(found.hot.quarantined, "character is", "characters are")
            found.problems.append(f"{quarantined} in quarantine: `statesync quarantine list`")
    return found


def _ask_redis(found: Gathered, orchestrator: GameStateOrchestrator) -> None:
    hot = orchestrator.hot
    found.hot = hot.status()
    found.sweep_ms = hot.figures().sweep_ms
    found.refusals = refusals(hot.examine([]))
    found.problems += found.refusals
    found.unknown_types = count_unknown_types(hot)
    found.troubles = hot.troubles()
    if found.hot.recovering:
        found.problems.append(str(DatabaseWentBack()))


def _lateness(status: Status, max_age_seconds: float) -> list[str]:
    if status.oldest_ms is None or status.oldest_ms <= max_age_seconds * 1000:
        return []
    age = f"the oldest unsaved change is {status.oldest_ms / 1000:.1f} s old"
    return [f"{age}, more than {max_age_seconds:g} s: see `statesync doctor`"]


def _dead_schedule(found: Gathered, status: Status, settings: Settings) -> list[str]:
    """Tell of a schedule without sweeps if something waits for one."""
    sweep_ms = found.sweep_ms
    if not (is_dead(sweep_ms, settings) and count_unsaved(status)):
        return []
    since = "has come in yet" if sweep_ms is None else f"came in for {sweep_ms / 1000:.0f} s"
    waiting = found.queues.get(settings.queue(QueueName.SYNC))
    why, advice = why_no_sweep(found.refusals, waiting, settings)
    unsaved = counted(count_unsaved(status), "character is", "characters are")
    return [f"{unsaved} unsaved, and no sweep {since}: {why}; {advice}"]


def _ask_postgresql(found: Gathered, orchestrator: GameStateOrchestrator) -> None:
    try:
        found.revision = migrations.revision(orchestrator.engine)
        if found.revision != migrations.head():
            found.problems.append("the tables are not up to date: run `statesync migrate`")
        else:
            found.losses = losses(orchestrator.hot, orchestrator.engine)
    except (ServerUnavailable, NotMigrated) as error:
        found.problems.append(str(error))


def tell_unknown_types(counts: Mapping[str, int]) -> str:
    """Return which session types, not registered here, unsaved characters wait for."""
    return (
        "Unsaved characters are in sessions of types that are not registered here: "
        f"{list_types(counts)}. "
        "Only a worker that knows these saves them."
    )
