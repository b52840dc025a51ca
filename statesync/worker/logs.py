"""Owns what a line of the log tells of the task that it is about."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery import current_task

from statesync.hot.commands.troubles import Work
from statesync.state.outcomes import BackupOutcome

__all__ = ["is_idle", "note", "task_fields"]

_NOTED = "statesync_noted"
"""What a task's request carries for the line at its end."""


_AS_EVER = frozenset(
    {
        *(BackupOutcome.SAVED, BackupOutcome.UNCHANGED),
        *(BackupOutcome.SUPERSEDED, BackupOutcome.STALE),
    }
)
"""What becomes of most claims of a sweep, whose own line counts them."""


def note(
    request: Any,
    result: Mapping[str, Any],
    work: Work,
    *,
    is_of_a_sweep: bool,
    is_vain: bool = False,
) -> None:
    """Have the line at the end of a task tell its result.

    A sweep in vain, of what cannot be saved now, has none: it would look like success.
    """
    if "left" in result:
        is_idle = is_vain or not (result["requeued"] or result["claimed"] or result["comparing"])
    else:
        is_idle = is_of_a_sweep and result.get("outcome") in _AS_EVER
    setattr(request, _NOTED, (is_idle, _fields(result, work)))


def _fields(result: Mapping[str, Any], work: Work) -> dict[str, Any]:
    if work in (Work.SWEEP, Work.SCRUB):
        return {"counts": result}
    if "outcome" not in result:
        return {"outcomes": result}
    names = ("outcome", "version", "error", "field", "sessions")
    return {name: result[name] for name in names if result.get(name) not in (None, {})}


def task_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of the task that a line is about, or that is running."""
    fields: dict[str, Any] = {}
    data = record.__dict__.get("data")
    if isinstance(data, dict) and {"id", "name"} <= data.keys():
        fields |= {"task": data["name"], "task_id": data["id"]}
        if "runtime" in data:
            fields["duration_ms"] = round(1000 * float(data["runtime"]), 1)
    request = current_task and current_task.request
    if not request or not request.id:
        return fields
    fields = {"task": current_task.name, "task_id": request.id} | fields
    kwargs, args = request.kwargs or {}, request.args or ()
    if realm := kwargs.get("realm"):
        fields["realm"] = realm
    if args and type(args[0]) is int and current_task.name.endswith("_full_state"):
        fields["char_id"] = args[0]
    return fields | _noted(request)[1]


def is_idle() -> bool:
    """Return whether the task that ends has done nothing worth a line."""
    return bool(current_task) and _noted(current_task.request)[0]


def _noted(request: Any) -> tuple[bool, dict[str, Any]]:
    return getattr(request, _NOTED, (False, {}))
