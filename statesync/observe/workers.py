"""Owns what the workers of a fleet tell of themselves, and what the doctor says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.unknown_types import count_unknown_types
from statesync.observe.check import Check, Topic, checked
from statesync.observe.queues import broker_connection, count_messages
from statesync.settings import Settings
from statesync.state.fields import counted
from statesync.state.session_types import names
from statesync.worker.names import SESSION_TYPES, queues_of

__all__ = ["START_WORKER", "Fleet", "check_workers", "list_types"]

START_WORKER = "start `celery -A statesync worker`, which serves all queues"

_INSPECT_SECONDS = 2
_INSPECT_ATTEMPTS = 3
"""How often workers are asked: those of a busy machine may answer late."""


class Fleet:
    """The workers of all realms. They are asked once, when somebody wants to know."""

    def __init__(self, all_settings: Sequence[Settings]) -> None:
        self._expected = {queue for settings in all_settings for queue in queues_of(settings)}
        self._is_broker_away = False

    @cached_property
    def queues(self) -> dict[str, set[str]]:
        """The queues that each worker serves, by its name. Raises what the broker does."""
        from statesync.worker.app import app

        workers: dict[str, set[str]] = {}
        for _ in range(_INSPECT_ATTEMPTS):
            answers = app.control.inspect(timeout=_INSPECT_SECONDS).active_queues() or {}
            workers |= {
                name: {queue["name"] for queue in served} for name, served in answers.items()
            }
            if self._expected <= set().union(*workers.values()):
                break
        return workers

    @cached_property
    def session_types(self) -> dict[str, list[str] | None]:
        """The session types that each worker knows; None from an older one, which does not tell.

        Raises what the broker does.
        """
        from statesync.worker.app import app

        answers = app.control.broadcast(SESSION_TYPES, reply=True, timeout=_INSPECT_SECONDS) or []
        return {
            worker: types if isinstance(types, list) else None
            for answer in answers
            for worker, types in answer.items()
        }

    def waiting(self, queue: str) -> int | None:
        """Return how many messages wait in a queue; None if the broker does not answer.

        Such a broker is not asked again.
        """
        if self._is_broker_away:
            return None
        try:
            with broker_connection() as connection:
                return count_messages(connection, queue)
        except Exception:  # each transport has its own; the check of the broker tells
            self._is_broker_away = True
            return None


def check_workers(
    fleet: Fleet, orchestrator: GameStateOrchestrator, settings: Settings
) -> Iterator[Check]:
    """Check that a worker serves each queue, and that all know the same session types."""
    for queue in queues_of(settings):
        is_served = any(queue in served for served in fleet.queues.values())
        yield checked(
            Topic.QUEUE,
            f"served, {counted(len(fleet.queues), 'worker', 'workers')} in all"
            if is_served
            else "no worker serves it",
            fail="" if is_served else f"{START_WORKER}, or with `-Q {queue}` for it alone",
            subject=queue,
        )
    if fleet.queues:
        yield _check_session_types(fleet, orchestrator.hot)


def _check_session_types(fleet: Fleet, hot: HotStore) -> Check:
    """Return whether all workers know the session types that this process knows."""
    own, unlike = set(names()), []
    known = fleet.session_types
    for worker, types in sorted(known.items()):
        if types is None:
            unlike.append(f"{worker} does not tell: it is of an older release")
            continue
        if lacks := own - set(types):
            unlike.append(f"{worker} does not know {', '.join(sorted(lacks))}")
        if more := set(types) - own:
            unlike.append(f"{worker} knows {', '.join(sorted(more))}, which is not installed here")
    known_anywhere = {name for types in known.values() for name in types or ()}
    lost = {name: n for name, n in count_unknown_types(hot).items() if name not in known_anywhere}
    if lost:
        unlike.append(f"no worker knows {list_types(lost)}, which unsaved characters wait for")
    return checked(
        Topic.SESSION_TYPES,
        "; ".join(unlike)
        or f"{', '.join(sorted(own))}: known by {counted(len(known), 'worker', 'workers')}",
        warn="install the same session types everywhere, and restart what is older" * bool(unlike),
        fail="start a worker that knows them: until then these characters are not saved"
        * bool(lost),
    )


def list_types(counts: Mapping[str, int]) -> str:
    """Return session types, each with how many characters wait for it, in words."""
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
