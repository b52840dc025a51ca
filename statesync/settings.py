"""Owns the settings: the only reader of ``STATESYNC_*`` in the environment.

An entry point builds them once and passes them down; nothing below it reads globals.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from statesync.errors import SettingsError
from statesync.urls import (
    broker_of,
    check_broker_url,
    check_database_url,
    check_redis_url,
    mask_or_hide,
)

__all__ = ["PREFIX", "Settings"]

PREFIX = "STATESYNC_"


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _matching(pattern: str, description: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(description)
        return text

    return parse


def _python_file(text: str) -> str:
    if not re.fullmatch(r"[^\0]*\.py|", text):
        raise ValueError("the path of a Python file, which ends in .py")
    return str(Path(text).absolute()) if text else ""


def _setting(parse: Callable[[str], Any], default: Any, *, is_url: bool = False) -> Any:
    return field(default=default, metadata={"parse": parse, "is_url": is_url})


_NAME = r"[A-Za-z0-9_.:-]{0,64}"
_NAME_IS = "up to 64 letters, digits and the characters _ . : -"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set, each as ``STATESYNC_`` + the field's name in capitals."""

    redis_url: str = _setting(check_redis_url, "redis://127.0.0.1:6379/0", is_url=True)
    """The server that holds the game's state hot."""
    database_url: str = _setting(
        check_database_url, "postgresql+psycopg2://statesync@127.0.0.1:5432/statesync", is_url=True
    )
    """The server that holds it durable."""
    broker_url: str = _setting(check_broker_url, "", is_url=True)
    """Celery's broker; database 1 of the server of ``redis_url`` if not set."""
    result_url: str = _setting(check_broker_url, "", is_url=True)
    """Celery's results; database 2 of the server of ``redis_url`` if not set."""
    key_prefix: str = _setting(_matching(_NAME, _NAME_IS), "")
    """Comes before every Redis key."""
    queue_prefix: str = _setting(_matching(_NAME, _NAME_IS), "")
    """Comes before the name of every queue."""
    sync_seconds: int = _setting(_whole(1, 86_400), 60)
    """How long a change waits until it is saved, at most: the dirty list is swept once in it."""
    scrub_seconds: int = _setting(_whole(0, 86_400), 900)
    """How often a scrub searches all of Redis for unsaved changes without a mark; 0 is never."""
    lease_seconds: int = _setting(_whole(1, 86_400), 120)
    """How long a worker may hold a claim before any sweep puts it back."""
    batch_size: int = _setting(_whole(1, 5_000), 500)
    """Characters in one ``backup_batch`` message and in one transaction."""
    batch_above: int = _setting(_whole(0, 1_000_000), 100)
    """A sweep dispatches a backlog above this in batches, a smaller one in a task per character."""
    max_in_flight: int = _setting(_whole(1, 10_000_000), 10_000)
    """Claims that may be out at once; the rest of the backlog waits in Redis."""
    result_seconds: int = _setting(_whole(1, 86_400), 300)
    """How long a task's result is kept for a game that waits for it."""
    fallback_state: str = _setting(
        _matching(r"[A-Za-z0-9_.:-]{1,64}", "1 to 64 letters, digits and the characters _ . : -"),
        "exploration",
    )
    """The state that a restore sets if nothing is left of the session that a state asks for."""
    vitals: str = _setting(
        _matching(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "package.module:function"),
        "statesync.state.vitals:derive_vitals",
    )
    """The function that derives vitals from stats if none were saved."""
    celeryconfig: str = _setting(_python_file, "")
    """A file whose names replace settings of Celery; relative to the working directory."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = str(getattr(self, spec.name))
            if value or not spec.metadata["is_url"]:
                object.__setattr__(self, spec.name, _parsed(spec, value))
        if self.max_in_flight < self.batch_size:
            raise SettingsError(
                f"{PREFIX}MAX_IN_FLIGHT: {self.max_in_flight} is not accepted; "
                f"it must be at least {PREFIX}BATCH_SIZE, which is {self.batch_size}"
            )
        for name, db in (("broker_url", 1), ("result_url", 2)):
            if not getattr(self, name):
                object.__setattr__(self, name, broker_of(self.redis_url, db))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Build the settings from ``STATESYNC_*``; an unknown or wrong one is refused.

        Raises SettingsError, which names the variable and what it accepts.
        """
        environ = os.environ if environ is None else environ
        names = {spec.name for spec in fields(cls)}
        given = {
            key.removeprefix(PREFIX).lower(): value
            for key, value in environ.items()
            if key.startswith(PREFIX)
        }
        if unknown := sorted(given.keys() - names):
            raise SettingsError(
                f"{PREFIX}{unknown[0].upper()}: there is no such setting; there are "
                + ", ".join(PREFIX + name.upper() for name in sorted(names))
            )
        return cls(**{name: value for name, value in given.items() if value})  # type: ignore[arg-type]

    def to_env(self) -> dict[str, str]:
        """Return the environment that makes a child process read the same settings."""
        return {PREFIX + s.name.upper(): str(getattr(self, s.name)) for s in fields(self)}

    def __repr__(self) -> str:
        shown = (
            f"{s.name}={mask_or_hide(v) if s.metadata['is_url'] else v!r}"
            for s in fields(self)
            for v in [getattr(self, s.name)]
        )
        return f"Settings({', '.join(shown)})"

    @property
    def lease_us(self) -> int:
        """The lease in microseconds, the unit of a claim's token."""
        return self.lease_seconds * 1_000_000

    @property
    def slice_seconds(self) -> float:
        """How often beat sends a slice of a sweep: sixty in an interval, at most four a second."""
        return max(0.25, self.sync_seconds / 60)

    @property
    def round_ms(self) -> int:
        """How long the slices take for everything: two less than the interval, so none is late."""
        return round(1000 * (self.sync_seconds - 2 * self.slice_seconds))

    def queue(self, name: str) -> str:
        """Return the real name of a queue: the prefix and ``name``."""
        return self.queue_prefix + name


def _parsed(spec: Field[Any], text: str) -> Any:
    parse = spec.metadata["parse"]
    try:
        return parse(text)
    except ValueError as error:
        shown = mask_or_hide(text) if spec.metadata["is_url"] or "://" in text else repr(text)
        raise SettingsError(
            f"{PREFIX}{spec.name.upper()}: {shown} is not accepted; "
            f"it must be {_accepts(parse, error)}"
        ) from None


def _accepts(parse: Callable[[str], Any], error: ValueError) -> str:
    """Return what ``parse`` accepts: the text of its error for a value that is never accepted."""
    try:
        parse("?")
    except ValueError as probe:
        return str(probe)
    return str(error)
