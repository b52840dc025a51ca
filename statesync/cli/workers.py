"""Owns what the doctor says of the workers. They are asked once for all realms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from statesync.cli.checks import Check, checked
from statesync.cli.common import list_types
from statesync.cli.turns import turn
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.unknown_types import count_unknown_types
from statesync.settings import Settings
from statesync.state.session_types import names
from statesync.worker.names import SESSION_TYPES, queues_of

__all__ = ["check_workers"]

T = TypeVar("T")

_INSPECT_SECONDS = 2
_INSPECT_ATTEMPTS = 3
"""How often workers are asked: those of a busy machine may answer late."""


def check_workers(orchestrator: GameStateOrchestrator, settings: Settings) -> Iterator[Check]:
    """Check that a worker serves each queue, and that all know the same session types."""
    workers = _answered("queues", _served_queues)
    queues = queues_of(settings)
    for queue in queues:
        is_served = any(queue in served for served in workers.values())
        yield checked(
            f"queue {queue}",
            f"served, {len(workers)} workers in all" if is_served else "no worker serves it",
            fail="" if is_served else f"start `celery -A statesync worker -Q {queue}`",
        )
    if workers:
        yield _session_types(orchestrator.hot)


def _answered(name: str, ask: Callable[[], T]) -> T:
    """Return what all workers answer; the first realm asks them."""
    shared = turn().shared
    if name not in shared:
        shared[name] = ask()
    answer: T = shared[name]
    return answer


def _served_queues() -> dict[str, set[str]]:
    """Return which queues each worker serves."""
    from statesync.worker.app import app

    queues = {queue for one in turn().all_settings for queue in queues_of(one)}
    workers: dict[str, set[str]] = {}
    for _ in range(_INSPECT_ATTEMPTS):
        answers = app.control.inspect(timeout=_INSPECT_SECONDS).active_queues() or {}
        workers |= {name: {queue["name"] for queue in served} for name, served in answers.items()}
        if queues <= set().union(*workers.values()):
            break
    return workers


def _known_types() -> dict[str, object]:
    """Return which session types each worker knows; an older one does not tell."""
    from statesync.worker.app import app

    answers = app.control.broadcast(SESSION_TYPES, reply=True, timeout=_INSPECT_SECONDS) or []
    return {worker: types for answer in answers for worker, types in answer.items()}


def _session_types(hot: HotStore) -> Check:
    """Return whether all workers know the session types that this process knows."""
    own, unlike = set(names()), []
    known = _answered("session types", _known_types)
    for worker, types in sorted(known.items()):
        if not isinstance(types, list):
            unlike.append(f"{worker} does not tell: it is of an older release")
            continue
        if lacks := own - set(types):
            unlike.append(f"{worker} does not know {', '.join(sorted(lacks))}")
        if more := set(types) - own:
            unlike.append(f"{worker} knows {', '.join(sorted(more))}, which is not installed here")
    known_anywhere = {name for types in known.values() if isinstance(types, list) for name in types}
    lost = {name: n for name, n in count_unknown_types(hot).items() if name not in known_anywhere}
    if lost:
        unlike.append(f"no worker knows {list_types(lost)}, which unsaved characters wait for")
    return checked(
        "session types",
        "; ".join(unlike) or f"{', '.join(sorted(own))}: known by {len(known)} workers",
        warn="install the same session types everywhere, and restart what is older" * bool(unlike),
        fail="start a worker that knows them: until then these characters are not saved"
        * bool(lost),
    )
