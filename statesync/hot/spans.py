"""Owns what a trace tells of a round trip to Redis: which scripts, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from statesync import tracing
from statesync.hot.command import Command

__all__ = ["span_of"]

_OPERATION = "EVALSHA"


def span_of(todo: Sequence[Command[Any]]) -> AbstractContextManager[object]:
    """Return the span of some Commands, named as OpenTelemetry names a call of a database."""
    if not (todo and tracing.is_on()):
        return tracing.NO_SPAN
    attributes: dict[str, str | int] = {
        "db.system.name": "redis",
        "db.operation.name": _OPERATION,
    }
    if len(todo) > 1:
        attributes["db.operation.batch.size"] = len(todo)
    names = {command.script.name for command in todo}
    if len(names) != 1:
        return tracing.span(_OPERATION, attributes, kind="CLIENT")
    (name,) = names
    attributes["db.stored_procedure.name"] = name
    return tracing.span(f"{_OPERATION} {name}", attributes, kind="CLIENT")
