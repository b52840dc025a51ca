"""Owns the settings: the only reader of ``STATESYNC_*`` in the environment.

An entry point builds them once and passes them down; nothing below it reads globals.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from statesync.errors import SettingsError
from statesync.urls import (
    broker_of,
    check_broker_url,
    check_database_url,
    check_redis_url,
    is_cluster,
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


def _realms(text: str) -> str:
    names = text.split(",") if text else []
    if re.fullmatch(r"[1-9][0-9]{0,3}", text):
        names = [str(number) for number in range(int(text))]
    if not all(re.fullmatch(_REALM, name) for name in names) or len({*names}) < len(names):
        raise ValueError(_REALMS_ARE)
    return ",".join(names)


def _python_file(text: str) -> str:
    if not re.fullmatch(r"[^\0]*\.py|", text):
        raise ValueError("the path of a Python file, which ends in .py")
    return str(Path(text).absolute()) if text else ""


def _login(text: str) -> str:
    name, _, password = text.partition(":")
    if text and not (re.fullmatch(r"[A-Za-z0-9_.@-]{1,64}", name) and len(password) >= 12):
        raise ValueError(
            "name:password, the name of letters, digits and _ . @ -, the password at least 12 long"
        )
    return text


def _web_url(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^\s\"<>@]+", text):
        raise ValueError("a URL that a browser can open, http://… or https://…, without a login")
    return text


def _json_object(text: str) -> str:
    with suppress(json.JSONDecodeError):
        if isinstance(value := json.loads(text or "{}"), dict):
            return json.dumps(value) if value else ""
    raise ValueError('a JSON object, such as {"client_name": "statesync"}')


def _setting(
    parse: Callable[[str], Any], default: Any, *, is_url: bool = False, is_secret: bool = False
) -> Any:
    return field(
        default=default, metadata={"parse": parse, "is_url": is_url, "is_secret": is_secret}
    )


def _shown(spec: Field[Any], value: object) -> str:
    """Return a value without what is secret in it."""
    if spec.metadata["is_secret"] and value:
        return "***"
    is_url = spec.metadata["is_url"] or "://" in str(value)
    return mask_or_hide(str(value)) if is_url else repr(value)


_NAME = r"[A-Za-z0-9_.:-]{0,64}"
_NAME_IS = "up to 64 letters, digits and the characters _ . : -"
_REALM = r"[A-Za-z0-9_-]{1,32}"
_REALM_IS = "up to 32 letters, digits and the characters _ -"
_REALMS_ARE = f"different names with commas between them, each {_REALM_IS}; or how many, up to 9999"
_TEMPLATE = "{realm}"
"""Stands in a URL for the name of the realm."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set, each as ``STATESYNC_`` + the field's name in capitals."""

    realms: str = _setting(_realms, "")
    """The worlds that this fleet serves: names, or a number of them. None: there is one world."""
    realm: str = _setting(_matching(_REALM + "|", _REALM_IS), "")
    """The realm that this process works in, one of ``realms``."""
    redis_url: str = _setting(check_redis_url, "redis://127.0.0.1:6379/0", is_url=True)
    """The server that holds the game's state hot."""
    database_url: str = _setting(
        check_database_url, "postgresql+psycopg2://statesync@127.0.0.1:5432/statesync", is_url=True
    )
    """The server that holds it durable."""
    broker_url: str = _setting(check_broker_url, "", is_url=True)
    """Celery's broker; database 1 of the server of ``redis_url`` if not set."""
    broker_options: str = _setting(_json_object, "", is_secret=True)
    """Options of the broker's transport, as JSON, that replace ours."""
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
    batch_size: int = _setting(_whole(1, 5_000), 1_000)
    """Characters in one ``backup_batch`` message; a transaction has up to 500 of them."""
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
    liveness_file: str = _setting(_matching(r"(/[^\0]+)?", "the absolute path of a file"), "")
    """What the main process of a worker or beat touches while it is not stuck."""

    web_viewer: str = _setting(_login, "", is_secret=True)
    """Who may read the operator's page from elsewhere, as ``name:password``."""
    web_operator: str = _setting(_login, "", is_secret=True)
    """Who may also act on the operator's page, as ``name:password``; nobody if it is not set."""
    flower_url: str = _setting(_web_url, "")
    """Where operators' browsers find Flower, for a link on the operator's page."""
    web_url: str = _setting(_web_url, "")
    """Where operators' browsers find that page, for a link in Flower."""

    log_format: str = _setting(_matching("text|json", "text or json"), "text")
    """How workers, beat, Flower and the web server write their logs."""

    def __post_init__(self) -> None:
        given_redis_url = self.redis_url
        for spec in fields(self):
            self._parse(spec)
        if self.max_in_flight < self.batch_size:
            raise SettingsError(
                f"{PREFIX}MAX_IN_FLIGHT: {self.max_in_flight} is not accepted; "
                f"it must be at least {PREFIX}BATCH_SIZE, which is {self.batch_size}"
            )
        self._check_realms()
        missing = {name: db for name, db in _BESIDE.items() if not getattr(self, name)}
        for name, db in missing.items():
            object.__setattr__(self, name, _beside(given_redis_url, missing, db))
        self._check_databases()

    def _parse(self, spec: Field[Any]) -> None:
        """Read one field. A URL with a template stays as it is until the realm is known."""
        value = str(getattr(self, spec.name))
        is_url = spec.metadata["is_url"]
        if is_url and self.realm:
            value = value.replace(_TEMPLATE, self.realm)
        is_template = is_url and self.realms and _TEMPLATE in value
        if (value or not is_url) and not is_template:
            value = _parsed(spec, value)
        object.__setattr__(self, spec.name, value)

    def _check_realms(self) -> None:
        """Refuse what needs realms without them."""
        if self.realm and self.realm not in self.realm_names:
            raise SettingsError(
                f"{PREFIX}REALM: {self.realm!r} is not accepted; it must be one of {PREFIX}REALMS"
            )
        if self.realms:
            return
        if is_cluster(self.redis_url):
            raise SettingsError(
                f"{PREFIX}REALMS: it must be set, since {PREFIX}REDIS_URL is a Redis Cluster: each "
                "realm is in one slot of it"
            )
        for name in ("redis_url", "database_url"):
            if _TEMPLATE in getattr(self, name):
                variable = PREFIX + name.upper()
                raise SettingsError(
                    f"{PREFIX}REALMS: it must be set, since {variable} holds {_TEMPLATE}"
                )

    def _check_databases(self) -> None:
        """Refuse realms that would share tables."""
        urls = {settings.database_url for settings in self.each_realm()}
        if self.realms and not self.realm and len(urls) < len(self.realm_names):
            raise SettingsError(
                f"{PREFIX}DATABASE_URL: {mask_or_hide(self.database_url)} is not accepted; it must "
                f"hold {_TEMPLATE} in the name of the database or of a schema: the realms of "
                f"{PREFIX}REALMS never share tables"
            )

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
        shown = (f"{spec.name}={_shown(spec, getattr(self, spec.name))}" for spec in fields(self))
        return f"Settings({', '.join(shown)})"

    @property
    def realm_names(self) -> tuple[str, ...]:
        """The names of all realms; none if there is only one world."""
        return tuple(self.realms.split(",")) if self.realms else ()

    def for_realm(self, name: str) -> Settings:
        """Return the settings of one realm. Raises SettingsError if it is none of these."""
        if name not in ((self.realm,) if self.realm else self.realm_names):
            known = self.realm or ", ".join(self.realm_names) or "none"
            raise SettingsError(f"there is no realm {name!r} here; there are: {known}")
        return replace(self, realm=name)

    def each_realm(self) -> tuple[Settings, ...]:
        """Return the settings of each realm that this process works in; itself if that is one."""
        if self.realm or not self.realms:
            return (self,)
        return tuple(map(self.for_realm, self.realm_names))

    @property
    def prefix(self) -> str:
        """What comes before every Redis key: the realm's hash tag, and the ``key_prefix``."""
        self._check_one()
        return f"{{{self.realm}}}:{self.key_prefix}" if self.realm else self.key_prefix

    def _check_one(self) -> None:
        if self.realms and not self.realm:
            raise SettingsError(
                f"{PREFIX}REALM: which realm? One of {', '.join(self.realm_names)}; "
                "in code, settings.for_realm(name)"
            )

    @property
    def lease_us(self) -> int:
        """The lease in microseconds, the unit of a claim's token."""
        return self.lease_seconds * 1_000_000

    @property
    def slice_seconds(self) -> float:
        """How often beat sends a slice of a sweep: sixty in an interval, at most four a second.

        Realms share these sixty, but none gets less than twenty: what changes all the time is saved
        once in a round, which is two slices shorter than the interval.
        """
        seconds = max(0.25, self.sync_seconds / 60)
        return max(seconds, min(seconds * len(self.realm_names), self.sync_seconds / 20))

    @property
    def round_ms(self) -> int:
        """How long the slices take for everything: two less than the interval, so none is late."""
        return round(1000 * (self.sync_seconds - 2 * self.slice_seconds))

    def queue(self, name: str) -> str:
        """Return the real name of a queue: the prefix, the realm, and ``name``."""
        self._check_one()
        return self.queue_prefix + (f"{self.realm}.{name}" if self.realm else name)


_BESIDE = {"broker_url": 1, "result_url": 2}
"""What is in the Redis of ``redis_url`` unless it is set, and in which database."""


def _beside(redis_url: str, missing: Iterable[str], db: int) -> str:
    """Return the URL of another database of the same Redis.

    Raises SettingsError, which names all that are ``missing``, if it has none.
    """
    if is_cluster(redis_url):
        reason = "a Redis Cluster has one database only: it is no broker and keeps no results"
    elif _TEMPLATE in redis_url:
        reason = "all realms share the broker and the results, and each has a Redis of its own"
    else:
        return broker_of(redis_url, db)
    names = [PREFIX + name.upper() for name in missing]
    must = "they must be set" if len(names) > 1 else "it must be set"
    raise SettingsError(f"{' and '.join(names)}: {must}: {reason}")


def _parsed(spec: Field[Any], text: str) -> Any:
    parse = spec.metadata["parse"]
    try:
        return parse(text)
    except ValueError as error:
        raise SettingsError(
            f"{PREFIX}{spec.name.upper()}: {_shown(spec, text)} is not accepted; "
            f"it must be {_accepts(parse, error)}"
        ) from None


def _accepts(parse: Callable[[str], Any], error: ValueError) -> str:
    """Return what ``parse`` accepts: the text of its error for a value that is never accepted."""
    try:
        parse("?")
    except ValueError as probe:
        return str(probe)
    return str(error)
