"""Owns how a line of the log looks: text or JSON, one line for an event, with nothing in it that
moves a cursor, forges a line or reorders letters, whatever players wrote.
"""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from statesync.state.fields import printable

__all__ = ["FIELDS", "TEXT_FORMAT", "Context", "configure", "formatter"]

FIELDS = (
    *("task", "task_id", "realm", "char_id", "char_ids", "session", "field"),
    *("outcome", "outcomes", "sessions", "version", "counts"),
    *("server", "work", "error", "seconds", "duration_ms"),
)
"""What a line may have beside its message, each as an attribute of the record (``extra``)."""

TEXT_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
"""That of Celery."""

Context = Callable[[logging.LogRecord], Mapping[str, Any]]
"""Gives fields of what a process works on while it writes a line."""

_NEXT_LINE = "\n  "
_encode = msgspec.json.Encoder(enc_hook=lambda value: printable(str(value))).encode


def formatter(
    log_format: str, text: logging.Formatter | None = None, context: Context = lambda _: {}
) -> logging.Formatter:
    """Return what writes lines as JSON, or as text: as another formatter does, escaped."""
    if log_format == "json":
        return _Json(context)
    return _Text(text or logging.Formatter(TEXT_FORMAT))


def configure(
    log_format: str, level: int = logging.INFO, *, text: logging.Formatter | None = None
) -> None:
    """Have all lines of this process written to stderr, and nowhere else."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(log_format, text))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)


class _Text(logging.Formatter):
    """Writes lines as another formatter does, escaped.

    What has more than one line, a traceback, is indented: it does not look like another event.
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        shown = copy.copy(record)
        shown.msg, shown.args = _message(record).replace("\n", _NEXT_LINE), None
        shown.exc_info = shown.exc_text = shown.stack_info = None
        if record.exc_info:
            shown.msg += _NEXT_LINE + _traceback(record).replace("\n", _NEXT_LINE)
        return self._inner.format(shown)


class _Json(logging.Formatter):
    """Writes each line as one JSON object."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        """Return the object."""
        given = record.__dict__
        line = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.processName,
            "message": _message(record),
        }
        if record.exc_info:
            line["traceback"] = _traceback(record)
        try:
            fields = {**self._context(record), **{n: given[n] for n in FIELDS if n in given}}
            return _encode({**line, **_printable(fields)}).decode()
        except Exception as error:  # fields may nest without end, or have no text
            return _encode({**line, "error": f"no fields: {type(error).__name__}"}).decode()


def _utc(seconds: float) -> str:
    shown = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return shown.replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    try:
        return _escaped(record.getMessage())
    except Exception as error:  # arguments may not fit, or have no text
        return _escaped(f"{record.msg} (no arguments: {type(error).__name__})")


def _traceback(record: logging.LogRecord) -> str:
    kind, error, trace = record.exc_info or (None, None, None)
    return _escaped("".join(traceback.format_exception(kind, error, trace)))


def _escaped(text: str) -> str:
    """Return a text of several lines with each as ``printable`` makes it."""
    return "\n".join(map(printable, text.strip().split("\n")))


def _printable(value: Any) -> Any:
    """Return a value with all texts in it as ``printable`` makes them."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(name): _printable(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_printable(item) for item in value]
    return value
