"""Owns the watch: it looks at every server all the time, and remembers an hour of it.

One daemon thread for each kind of server goes through the realms, so a server that is frozen keeps
nobody from looking at the others. Metrics and pages read what the watch has seen: they ask no
server, and no server that is away takes them away.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Self, TypeVar

from statesync import durable
from statesync.durable import database
from statesync.durable.losses import Loss
from statesync.errors import BrokerUnavailable, CorruptState, NotMigrated, StatesyncError
from statesync.hot.commands.health import Figures
from statesync.hot.commands.operators import Status
from statesync.hot.commands.troubles import Server, Trouble
from statesync.hot.store import unwrap
from statesync.lifecycle.realms import Realms
from statesync.observe import checks, queues
from statesync.observe.broker import problem_of
from statesync.observe.check import Check, Group, Topic
from statesync.observe.workers import Fleet

__all__ = ["Answer", "Checked", "Point", "Sample", "Watch", "Worker"]

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_SECONDS = 5.0
"""Between two looks at the servers."""
CHECK_SECONDS = 30.0
"""Between two rounds of the doctor's checks."""
SILENT_SECONDS = 30.0
"""After so long without an answer a server counts as away, and the watch as asleep."""
KEPT_SECONDS = 3600.0
"""How long the points of the charts are kept."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a server answered when it was last asked, or why it did not."""

    value: T | None = None
    """None if it did not answer, or was not asked yet."""
    error: str = "it has not been asked yet"
    """Why there is no value; empty if there is one."""
    at: float = 0.0
    """Unix seconds; 0 if it was not asked yet."""
    is_odd: bool = False
    """The server did answer: others have put something else where this is read."""

    @property
    def is_up(self) -> bool:
        """Whether there is a value, from a short time ago."""
        return not self.error and self._is_new()

    @property
    def is_answered(self) -> bool:
        """Whether the server has answered, a short time ago."""
        return (self.is_odd or not self.error) and self._is_new()

    def _is_new(self) -> bool:
        return time.time() - self.at < SILENT_SECONDS


class Checked(NamedTuple):
    """What a round of the doctor's checks has found in a realm."""

    checks: list[Check]
    workers: dict[str, Worker] | None
    """Those of the whole fleet, by name; None if they could not be asked."""


class Worker(NamedTuple):
    """What a worker tells of itself."""

    queues: set[str]
    session_types: list[str] | None
    """None from an older release, which does not tell."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the watch knows of one realm now."""

    realm: str
    redis: Answer[Status] = field(default_factory=Answer)
    figures: Answer[Figures] = field(default_factory=Answer)
    troubles: Answer[dict[Server, Trouble]] = field(default_factory=Answer)
    """Servers that refuse the work of workers. Redis tells all three in one answer."""
    postgresql: Answer[list[Loss]] = field(default_factory=Answer)
    """The last servers that went back in time; none if the tables are not there yet."""
    broker: Answer[dict[str, int]] = field(default_factory=Answer)
    """How many messages wait, by queue."""
    checks: Answer[Checked] = field(default_factory=Answer)
    """What the doctor's checks have found, and what the workers have told."""


class Point(NamedTuple):
    """What is kept for the charts, of each look at a realm's Redis."""

    at: float
    """Unix seconds."""
    unsaved: int
    """Characters that are dirty or claimed."""
    oldest_seconds: float
    """Age of the oldest unsaved change; 0 if there is none."""


class Watch:
    """Looks at the servers of all realms; safe to share by threads.

    ``with`` starts its threads and ends them; ``look`` looks once, without threads.
    """

    def __init__(self, realms: Realms) -> None:
        self._realms = realms
        self._answers: dict[str, dict[str, Answer[Any]]] = {realm: {} for realm in realms.names}
        """By realm: what a Sample has of it, by name."""
        self._points: dict[str, deque[Point]] = {
            realm: deque(maxlen=round(KEPT_SECONDS / LOOK_SECONDS)) for realm in realms.names
        }
        self._looked_at = -math.inf
        self._stopped = threading.Event()

    @property
    def realm_names(self) -> list[str]:
        """The names of the realms; one that is empty if there is only one world."""
        return self._realms.names

    def latest(self, realm: str = "") -> Sample:
        """Return what is known of a realm now."""
        return Sample(realm, **self._answers[realm])

    def samples(self, realm: str = "") -> list[Point]:
        """Return the last hour of a realm, oldest first; there is none where Redis was away."""
        return list(self._points[realm])

    def is_awake(self) -> bool:
        """Whether it has looked at some server lately, whatever it found."""
        return time.monotonic() - self._looked_at < SILENT_SECONDS

    def look(self, *names: str) -> None:
        """Look once: at everything, or at what ``Sample`` has under these names."""
        for kind in _KINDS:
            if not names or kind.name in names:
                self._look_at(kind)

    def __enter__(self) -> Self:
        for kind in _KINDS:
            threading.Thread(target=self._run, args=(kind,), name=kind.name, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def _run(self, kind: _Kind) -> None:
        while not self._stopped.is_set():
            self._look_at(kind)
            self._stopped.wait(kind.seconds)

    def _look_at(self, kind: _Kind) -> None:
        """Look at the realms in turn, and keep none waiting for servers that are away.

        What answered comes first. Once the time is over, those that do not answer wait for the
        next round, in which they go on.
        """
        ask = kind.begin(self._realms)
        ends_at = time.monotonic() + kind.seconds
        for realm in sorted(self.realm_names, key=lambda realm: self._last(kind, realm)):
            if self._stopped.is_set():
                return
            answers = self._ask(kind, ask, realm)
            self._answers[realm].update(answers)
            self._looked_at = time.monotonic()
            redis = answers.get("redis")
            if redis and redis.value:
                self._add_point(realm, redis.value, redis.at)
            if answers[kind.name].error and self._looked_at > ends_at:
                return

    def _last(self, kind: _Kind, realm: str) -> tuple[bool, float]:
        """Return whether a realm did not answer the last time, and when that was."""
        before = self._answers[realm].get(kind.name, Answer())
        return bool(before.error), before.at

    def _ask(self, kind: _Kind, ask: _Ask, realm: str) -> dict[str, Answer[Any]]:
        try:
            values = ask(realm)
            return {name: _answer(value) for name, value in values.items()}
        except StatesyncError as error:
            reason = str(error)
        except Exception as error:  # the watch goes on
            reason = f"{type(error).__name__}: {error}"
            if self._answers[realm].get(kind.name, Answer()).error != reason:
                log.exception("the watch cannot look at %s of realm %r", kind.name, realm)
        return {name: Answer(None, reason, time.time()) for name in kind.fields}

    def _add_point(self, realm: str, status: Status, at: float) -> None:
        unsaved = status.dirty + status.claimed
        self._points[realm].append(Point(at, unsaved, (status.oldest_ms or 0) / 1000))


def _answer(value: Any) -> Answer[Any]:
    if isinstance(value, CorruptState):
        return Answer(None, str(value), time.time(), is_odd=True)
    return Answer(unwrap(value), "", time.time())


_Ask = Callable[[str], dict[str, Any]]
"""Asks about one realm, and returns fields of its Sample, or why one has no value."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Something to ask about each realm in turn, and how often."""

    name: str
    begin: Callable[[Realms], _Ask]
    """Begins a round through the realms."""
    fields: tuple[str, ...]
    """Those that it returns."""
    seconds: float = LOOK_SECONDS


def _begin_redis(realms: Realms) -> _Ask:
    def ask(realm: str) -> dict[str, Any]:
        hot = realms.orchestrator(realm).hot
        todo: list[Any] = [hot.commands.status(), hot.commands.figures(), hot.commands.troubles()]
        return dict(zip(("redis", "figures", "troubles"), hot.run_many(todo), strict=True))

    return ask


def _begin_postgresql(realms: Realms) -> _Ask:
    def ask(realm: str) -> dict[str, Any]:
        orchestrator = realms.orchestrator(realm)
        prefix, limit = orchestrator.hot.keys.prefix, database.QUICK_SECONDS
        try:
            with database.transaction(orchestrator.engine, answer_seconds=limit) as connection:
                return {"postgresql": durable.losses.all_losses(connection, prefix)}
        except NotMigrated:
            return {"postgresql": []}

    return ask


def _begin_broker(realms: Realms) -> _Ask:
    def ask(realm: str) -> dict[str, Any]:
        settings = realms.settings(realm)
        try:
            return {"broker": queues.count(settings)}
        except Exception as error:  # each transport of a broker has its own
            raise BrokerUnavailable(problem_of(error, "the broker", settings.broker_url)) from None

    return ask


class _Checks:
    """A round of the doctor's checks; what is the same in all realms is checked in the first one.

    Workers that could not be asked for one realm are not asked for the next one.
    """

    def __init__(self, realms: Realms) -> None:
        self.realms = realms
        self.fleet = Fleet([realms.settings(realm) for realm in realms.names])
        self.shared: list[Check] = []
        self.unasked: list[Check] = []

    def ask(self, realm: str) -> dict[str, Any]:
        """Make the checks of a realm."""
        if not self.shared:
            self.shared = self.run(self.realms.names[0], checks.OF_ALL_REALMS)
        known = {check.group for check in (*self.shared, *self.unasked)}
        found = self.run(realm, [group for group in Group if group not in known])
        self.unasked += [check for check in found if check.topic is Topic.WORKERS]
        found += [check for check in self.unasked if check not in found]
        return {"checks": Checked([*found, *self.shared], self.workers())}

    def run(self, realm: str, groups: Container[Group]) -> list[Check]:
        """Make the checks of some groups."""
        settings = self.realms.settings(realm)
        return checks.run(self.realms.orchestrator(realm), settings, self.fleet, only=groups)

    def workers(self) -> dict[str, Worker] | None:
        """Return what the workers have told."""
        if self.unasked:
            return None
        return {
            name: Worker(served, self.fleet.session_types.get(name))
            for name, served in sorted(self.fleet.queues.items())
        }


_KINDS = (
    _Kind("redis", _begin_redis, ("redis", "figures", "troubles")),
    _Kind("postgresql", _begin_postgresql, ("postgresql",)),
    _Kind("broker", _begin_broker, ("broker",)),
    _Kind("checks", lambda realms: _Checks(realms).ask, ("checks",), CHECK_SECONDS),
)
