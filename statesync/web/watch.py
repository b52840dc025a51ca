"""Owns the watch: it looks at every server all the time, and remembers an hour of it.

One daemon thread for each kind of server goes through the realms, so a server that is frozen keeps
nobody from looking at the others. Metrics and pages read what the watch has seen: they ask no
server, and no server that is away takes them away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Self, TypeVar

from statesync.durable import database
from statesync.errors import BrokerUnavailable, StatesyncError
from statesync.hot.commands.operators import Status
from statesync.lifecycle.realms import Realms
from statesync.observe import checks, queues
from statesync.observe.broker import problem_of
from statesync.observe.check import Check
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

    @property
    def is_up(self) -> bool:
        """Whether it has answered, a short time ago."""
        return not self.error and time.time() - self.at < SILENT_SECONDS


class Checked(NamedTuple):
    """What a round of the doctor's checks has found in a realm."""

    checks: list[Check]
    workers: dict[str, Worker]
    """Those of the whole fleet, by name; none if the broker is away."""


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
    postgresql: Answer[bool] = field(default_factory=Answer)
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
        self._answers: dict[tuple[str, str], Answer[Any]] = {}
        self._points: dict[str, deque[Point]] = {
            realm: deque(maxlen=round(KEPT_SECONDS / LOOK_SECONDS)) for realm in realms.names
        }
        self._looked_at = 0.0
        self._stopped = threading.Event()

    @property
    def realm_names(self) -> list[str]:
        """The names of the realms; one that is empty if there is only one world."""
        return self._realms.names

    def latest(self, realm: str = "") -> Sample:
        """Return what is known of a realm now."""
        answers = {name: a for (of, name), a in list(self._answers.items()) if of == realm}
        return Sample(realm, **answers)

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
        for realm in self.realm_names:
            if not self._stopped.is_set():
                self._answers[realm, kind.name] = answer = self._ask(kind, realm)
                self._looked_at = time.monotonic()
                if isinstance(answer.value, Status):
                    self._add_point(realm, answer.value, answer.at)

    def _ask(self, kind: _Kind, realm: str) -> Answer[Any]:
        try:
            return Answer(kind.ask(self._realms, realm), "", time.time())
        except StatesyncError as error:
            return Answer(None, str(error), time.time())
        except Exception as error:  # the watch goes on
            log.exception("the watch could not look at %s of realm %r", kind.name, realm)
            return Answer(None, f"{type(error).__name__}: {error}", time.time())

    def _add_point(self, realm: str, status: Status, at: float) -> None:
        unsaved = status.dirty + status.claimed
        self._points[realm].append(Point(at, unsaved, (status.oldest_ms or 0) / 1000))


@dataclass(frozen=True, slots=True)
class _Kind:
    """Something to ask of each realm, how, and how often."""

    name: str
    ask: Callable[[Realms, str], Any]
    seconds: float = LOOK_SECONDS


def _ask_redis(realms: Realms, realm: str) -> Status:
    return realms.orchestrator(realm).hot.status()


def _ask_postgresql(realms: Realms, realm: str) -> bool:
    database.ping(realms.orchestrator(realm).engine)
    return True


def _ask_broker(realms: Realms, realm: str) -> dict[str, int]:
    settings = realms.settings(realm)
    try:
        return queues.count(settings)
    except Exception as error:  # each transport of a broker has its own
        raise BrokerUnavailable(problem_of(error, "the broker", settings.broker_url)) from None


def _ask_checks(realms: Realms, realm: str) -> Checked:
    settings = realms.settings(realm)
    fleet = Fleet([settings])
    found = checks.run(realms.orchestrator(realm), settings, fleet)
    workers: dict[str, Worker] = {}
    with suppress(Exception):  # the broker is away, and a check has said so
        workers = {
            name: Worker(served, fleet.session_types.get(name))
            for name, served in sorted(fleet.queues.items())
        }
    return Checked(found, workers)


_KINDS = (
    _Kind("redis", _ask_redis),
    _Kind("postgresql", _ask_postgresql),
    _Kind("broker", _ask_broker),
    _Kind("checks", _ask_checks, CHECK_SECONDS),
)
