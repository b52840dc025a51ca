"""Owns what one check of the doctor says, and the names of all checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from statesync.hot.commands.troubles import Server

__all__ = ["Check", "CheckStatus", "Group", "Topic", "checked"]


class CheckStatus(StrEnum):
    """How well a check went."""

    OK = "ok"
    """As it should be."""
    WARN = "warn"
    """It works, but a fault may cost data or time."""
    FAIL = "fail"
    """It does not work, or data is at risk now."""


class Group(StrEnum):
    """Checks that are made together; in this order: causes come before what follows from them."""

    REDIS = "redis"
    """The server of the game's state."""
    POSTGRESQL = "postgresql"
    """The server of what is saved."""
    TROUBLES = "troubles"
    """Servers that refuse the work of workers."""
    BROKER = "broker"
    """The server of the messages."""
    RESULTS = "results"
    """The server of the tasks' results."""
    WORKERS = "workers"
    """Who saves and loads."""
    BEAT = "beat"
    """The schedule."""
    CLOCKS = "clocks"
    """Whether the machines agree on the time."""
    BACKLOG = "backlog"
    """What is not saved yet, against the promise."""
    LOSSES = "losses"
    """Servers that went back in time."""
    CONFLICTS = "conflicts"
    """What players have lost by that."""
    FLOWER = "flower"
    """Whether strangers can stop workers."""
    VERSIONS = "versions"
    """What is installed here."""


class Topic(StrEnum):
    """What a check is about. A group that cannot be checked at all is about itself."""

    REDIS = "redis"
    """Redis answers, and is new enough."""
    RIGHTS_IN_REDIS = "rights in redis"
    """Our user there may do all that we do."""
    EVICTION = "eviction"
    """Redis deletes nothing by itself when it is full."""
    MEMORY = "memory"
    """There is room for more characters."""
    PERSISTENCE = "persistence"
    """Redis keeps its memory over a restart."""
    ROLE = "role"
    """It is no replica."""
    TIME_TO_LIVE = "time to live"
    """No character expires."""
    POSTGRESQL = "postgresql"
    """PostgreSQL answers, is new enough, and takes writes."""
    TIME_LIMITS = "time limits"
    """A statement ends before its claim does."""
    MIGRATIONS = "migrations"
    """The tables are those of this release."""
    RIGHTS = "rights"
    """Our role there may do all that we do."""
    BACKLOG = "backlog"
    """Changes are saved in time."""
    QUARANTINE = "quarantine"
    """Every character can be saved."""
    TROUBLES = "troubles"
    """No server refuses the work of workers."""
    LOSSES = "losses"
    """No server went back in time."""
    CONFLICTS = "conflicts"
    """No character was set to its row lately."""
    CLOCKS = "clocks"
    """The machines agree on the time."""
    BROKER = "broker"
    """The broker answers."""
    RIGHTS_IN_BROKER = "rights in broker"
    """Our user there may do all that Celery does."""
    DATABASES = "databases"
    """Broker and state are apart."""
    VISIBILITY_TIMEOUT = "visibility timeout"
    """No task is given to a second worker while it runs."""
    DECLARATIONS = "queues"
    """The queues in RabbitMQ are declared as workers do it."""
    MESSAGES = "messages"
    """How many messages wait."""
    RESULTS = "results"
    """The server of the results answers."""
    WORKERS = "workers"
    """Workers can be asked."""
    QUEUE = "queue"
    """A worker serves this queue."""
    SESSION_TYPES = "session types"
    """All workers know the same session types."""
    BEAT = "beat"
    """Sweeps come in."""
    SCRUB = "scrub"
    """Scrubs come to their end."""
    FLOWER = "flower"
    """Flower asks for a password."""
    VERSIONS = "versions"
    """What is installed here."""


_TOPICS = {
    Group.REDIS: (
        *(Topic.REDIS, Topic.RIGHTS_IN_REDIS, Topic.EVICTION, Topic.MEMORY, Topic.PERSISTENCE),
        *(Topic.ROLE, Topic.TIME_TO_LIVE),
    ),
    Group.POSTGRESQL: (Topic.POSTGRESQL, Topic.TIME_LIMITS, Topic.MIGRATIONS, Topic.RIGHTS),
    Group.BACKLOG: (Topic.BACKLOG, Topic.QUARANTINE),
    Group.TROUBLES: (Topic.TROUBLES,),
    Group.LOSSES: (Topic.LOSSES,),
    Group.CONFLICTS: (Topic.CONFLICTS,),
    Group.CLOCKS: (Topic.CLOCKS,),
    Group.BROKER: (
        *(Topic.BROKER, Topic.RIGHTS_IN_BROKER, Topic.DATABASES, Topic.VISIBILITY_TIMEOUT),
        Topic.DECLARATIONS,
        Topic.MESSAGES,
    ),
    Group.RESULTS: (Topic.RESULTS,),
    Group.WORKERS: (Topic.WORKERS, Topic.QUEUE, Topic.SESSION_TYPES),
    Group.BEAT: (Topic.BEAT, Topic.SCRUB),
    Group.FLOWER: (Topic.FLOWER,),
    Group.VERSIONS: (Topic.VERSIONS,),
}
_GROUPS = {topic: group for group, topics in _TOPICS.items() for topic in topics}


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found; ``do`` is empty if it is ``ok``."""

    topic: Topic
    status: CheckStatus
    found: str
    do: str = ""
    subject: str = ""
    """Which of several it is about: a queue, a server."""
    away: Server | None = None
    """The server that did not answer, so nothing else is known."""

    @property
    def group(self) -> Group:
        """The group that it belongs to."""
        return _GROUPS[self.topic]

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.topic} {self.subject}".rstrip()

    @property
    def runbook(self) -> str:
        """Where the documentation says what it means and what to do."""
        return f"docs/runbooks.md#{self.topic.replace(' ', '-')}"

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {
            "group": self.group,
            "check": self.name,
            "status": self.status,
            "found": self.found,
            "do": self.do,
            "runbook": self.runbook,
        }


def checked(
    topic: Topic,
    found: str,
    *,
    warn: str = "",
    fail: str = "",
    subject: str = "",
    away: Server | None = None,
) -> Check:
    """Return a check that is ok unless one of ``warn`` and ``fail`` says what to do."""
    status = CheckStatus.FAIL if fail else CheckStatus.WARN if warn else CheckStatus.OK
    return Check(topic, status, found, fail or warn, subject, away)
