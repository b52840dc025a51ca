"""Owns the record of losses: which server went back in time, and what that has cost.

The record stands beside the counter of sweeps, one entry for each loss. An entry is open until
everything live has been compared with its rows, or saved again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace
from sqlalchemy import Connection, Select, func, literal, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from statesync.durable.tables import server_counters

__all__ = [
    "IS_RECOVERING",
    "Left",
    "Loss",
    "NotLive",
    "Side",
    "add_costs",
    "add_not_live",
    "all_losses",
    "end_losses",
    "is_recovering",
    "losses_since",
    "note_page",
    "record",
    "reopen",
]

_KEPT = 10
"""How many losses are on record."""
_NOT_LIVE_LISTED = 1000
_LEFT_LISTED = 300
"""How many characters of each kind a loss lists by name."""

_counters = server_counters.c
IS_RECOVERING = text(
    "jsonb_typeof(last_loss) = 'array' AND jsonb_path_exists("
    "last_loss, '$[*] ? (@.side != \"redis\" && !exists(@.recovered_at))') IS TRUE"
)
"""Whether PostgreSQL remembers that it went back and that what is live is being saved again."""


class Side(StrEnum):
    """Which server went back in time."""

    REDIS = "redis"
    """PostgreSQL is right: what is live is recorded, and set to its rows."""
    POSTGRESQL = "postgresql"
    """Redis is right: what is live is saved again."""
    BOTH = "both"
    """Nobody can say: a group in which both went back is quarantined."""

    @property
    def servers(self) -> str:
        """How people are told of it: the name of the server, or of both."""
        return _SERVERS[self]


_SERVERS = {
    Side.REDIS: "Redis",
    Side.POSTGRESQL: "PostgreSQL",
    Side.BOTH: "Redis and PostgreSQL",
}


class NotLive(NamedTuple):
    """A character that was evicted at a newer version than its row has, so it stays at the row."""

    char_id: int
    evicted_version: int | None
    """None if it was deleted: it is back, and is to be deleted again."""
    row_version: int | None
    """None if there is no row."""


class Left(NamedTuple):
    """A character that a recovery could not save."""

    char_id: int
    reason: str


class Loss(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One time that a server went back, and what it has cost."""

    side: Side
    found_at: datetime
    found_by: str = "sweep"
    """"sweep" or "backup"."""
    redis_sweeps: tuple[int, int] | None = None
    """How many PostgreSQL remembered, and how many Redis had counted; None if that told nothing."""
    postgresql_sweeps: tuple[int, int] | None = None
    """How many Redis remembered, and how many PostgreSQL had counted."""
    not_live: list[NotLive] = []
    left: list[Left] = []
    reverted: int = 0
    """Characters that were set to their rows."""
    saved_again: int = 0
    """Characters that a recovery has saved again."""
    quarantined: int = 0
    """Characters that were set aside, since both servers went back."""
    recovered_at: datetime | None = None
    """None while it is being settled."""

    @property
    def counts_anew(self) -> bool:
        """Whether Redis had counted no sweep at all, as if it was empty."""
        return self.redis_sweeps is not None and self.redis_sweeps[1] == 0

    def as_json(self) -> dict[str, Any]:
        """Return all of it, as JSON has it."""
        return {name: msgspec.to_builtins(getattr(self, name)) for name in self.__struct_fields__}

    def is_same(self, other: Loss) -> bool:
        """Return whether another finding is of this loss, which is being settled still.

        A backup finds it first and a sweep later; a sweep finds it again if it has died before it
        told the other server.
        """
        pairs = (
            (self.redis_sweeps, other.redis_sweeps),
            (self.postgresql_sweeps, other.postgresql_sweeps),
        )
        are_as_remembered = all(not (a and b) or a[0] == b[0] for a, b in pairs)
        return self.recovered_at is None and self.side == other.side and are_as_remembered


def all_losses(connection: Connection, key_prefix: str) -> list[Loss]:
    """Return the losses on record, oldest first."""
    return _read(connection.execute(_record_of(key_prefix)).scalar_one_or_none())


def losses_since(connection: Connection, key_prefix: str, retention: timedelta) -> list[Loss]:
    """Return the losses that were found within some time, oldest first."""
    since = func.now() - literal(retention)
    query = _record_of(key_prefix).add_columns(since).where(_counters.lost_at > since)
    found = connection.execute(query).one_or_none()
    return [loss for loss in _read(found[0]) if loss.found_at > found[1]] if found else []


def is_recovering(losses: Iterable[Loss]) -> bool:
    """Return whether PostgreSQL went back and what is live is being saved again."""
    return any(loss.side is not Side.REDIS and loss.recovered_at is None for loss in losses)


def record(connection: Connection, key_prefix: str, found: Loss) -> None:
    """Put a loss on record, or add to its entry what is known of it now."""

    def add(losses: list[Loss]) -> list[Loss]:
        for i, known in enumerate(losses):
            if known.is_same(found):
                losses[i] = replace(
                    known,
                    redis_sweeps=known.redis_sweeps or found.redis_sweeps,
                    postgresql_sweeps=known.postgresql_sweeps or found.postgresql_sweeps,
                )
                return losses
        return [*losses, found]

    _change(connection, key_prefix, add)


def reopen(connection: Connection, key_prefix: str, char_ids: Iterable[int]) -> bool:
    """Open the loss again whose recovery has left some characters; False if there is none."""
    wanted, is_found = set(char_ids), False

    def open_again(losses: list[Loss]) -> list[Loss]:
        nonlocal is_found
        for i, loss in enumerate(losses):
            if wanted & {left.char_id for left in loss.left}:
                losses[i] = replace(loss, recovered_at=None)
                is_found = True
        return losses

    _change(connection, key_prefix, open_again)
    return is_found


def add_not_live(connection: Connection, key_prefix: str, characters: Iterable[NotLive]) -> None:
    """Add characters to the last loss of PostgreSQL."""

    def add(loss: Loss) -> Loss:
        listed = {item.char_id: item for item in (*loss.not_live, *characters)}
        return replace(loss, not_live=list(listed.values())[:_NOT_LIVE_LISTED])

    _change_last(connection, key_prefix, Side.POSTGRESQL, add)


def note_page(
    connection: Connection,
    key_prefix: str,
    seen: Collection[int],
    left: Iterable[Left],
    *,
    saved_again: int,
) -> None:
    """Note how the recovery from the last loss of PostgreSQL went for the characters of a page."""

    def note(loss: Loss) -> Loss:
        listed = {item.char_id: item for item in loss.left if item.char_id not in seen}
        listed |= {item.char_id: item for item in left}
        return replace(
            loss,
            left=list(listed.values())[:_LEFT_LISTED],
            saved_again=loss.saved_again + saved_again,
        )

    _change_last(connection, key_prefix, Side.POSTGRESQL, note)


def add_costs(
    connection: Connection, key_prefix: str, *, reverted: int = 0, quarantined: int = 0
) -> None:
    """Add to what the last loss of Redis has cost."""

    def add(loss: Loss) -> Loss:
        return replace(
            loss, reverted=loss.reverted + reverted, quarantined=loss.quarantined + quarantined
        )

    _change_last(connection, key_prefix, Side.REDIS, add)


def end_losses(
    connection: Connection, key_prefix: str, recovered_at: datetime, *, leaves_some: bool
) -> None:
    """Note of all that is being settled that it is settled now."""

    def end(loss: Loss) -> Loss:
        if loss.recovered_at:
            return loss
        return replace(loss, recovered_at=recovered_at, left=loss.left if leaves_some else [])

    _change(connection, key_prefix, lambda losses: [end(loss) for loss in losses])


def _change(
    connection: Connection, key_prefix: str, change: Callable[[list[Loss]], list[Loss]]
) -> None:
    """Write the record anew, under the lock of its row."""
    query = _record_of(key_prefix).with_for_update()
    before = _read(connection.execute(query).scalar_one_or_none())
    after = change(list(before))[-_KEPT:]
    if after == before:
        return
    values: dict[str, Any] = {"losses": msgspec.to_builtins(after)}
    if len(after) > len(before) or after[-1].found_at != before[-1].found_at:
        values["lost_at"] = func.now()
    insert = upsert(server_counters).values(key_prefix=key_prefix, **values)
    connection.execute(
        insert.on_conflict_do_update(index_elements=[_counters.key_prefix], set_=values)
    )


def _change_last(
    connection: Connection, key_prefix: str, side: Side, change: Callable[[Loss], Loss]
) -> None:
    """Change the last loss of a server, or of both."""

    def change_last(losses: list[Loss]) -> list[Loss]:
        for i in reversed(range(len(losses))):
            if losses[i].side in (side, Side.BOTH):
                losses[i] = change(losses[i])
                break
        return losses

    _change(connection, key_prefix, change_last)


def _record_of(key_prefix: str) -> Select[Any]:
    return select(_counters.losses).where(_counters.key_prefix == key_prefix)


def _read(losses: list[dict[str, Any]] | dict[str, Any] | None) -> list[Loss]:
    """Return a record; one from before there were several is of a loss that is settled."""
    if isinstance(losses, dict):
        losses = [losses | {"recovered_at": losses["found_at"]}]
    return msgspec.convert(losses or [], list[Loss])
