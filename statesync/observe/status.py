"""Owns how much is unsaved and since when, and what of the servers is in trouble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from statesync.durable import migrate as migrations
from statesync.durable.losses import Loss
from statesync.errors import DatabaseWentBack, NotMigrated, ServerUnavailable
from statesync.hot.commands.operators import Status
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.servers import losses
from statesync.lifecycle.unknown_types import count_unknown_types
from statesync.observe import queues
from statesync.observe.broker import problem_of
from statesync.observe.losses import loss_as_json
from statesync.observe.workers import list_types
from statesync.settings import Settings

__all__ = ["Gathered", "gather", "tell_unknown_types"]


@dataclass(slots=True)
class Gathered:
    """What the servers tell; of one that is away, nothing, and a problem."""

    hot: Status | None = None
    """What Redis tells."""
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
            "unknown_types": self.unknown_types,
            "queues": self.queues,
            "revision": self.revision,
            "losses": [loss_as_json(loss) for loss in self.losses],
            "problems": self.problems,
        }


def gather(orchestrator: GameStateOrchestrator, settings: Settings) -> Gathered:
    """Ask all servers of a realm. One that is away is a problem, and the others are asked."""
    found = Gathered()
    _ask_redis(found, orchestrator)
    _ask_postgresql(found, orchestrator)
    try:
        found.queues = queues.count(settings)
    except Exception as error:  # each transport of a broker has its own
        found.problems.append(problem_of(error, "the broker", settings.broker_url))
    return found


def _ask_redis(found: Gathered, orchestrator: GameStateOrchestrator) -> None:
    try:
        found.hot = orchestrator.hot.status()
        found.unknown_types = count_unknown_types(orchestrator.hot)
    except ServerUnavailable as error:
        found.problems.append(str(error))
    if found.hot and found.hot.recovering:
        found.problems.append(str(DatabaseWentBack()))


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
