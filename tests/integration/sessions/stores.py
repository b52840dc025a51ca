"""Owns what tests see of both stores: rows of PostgreSQL, and all that Redis holds."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import Engine, text

from statesync.hot.keys import Keys
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.state.characters import JSON_FIELDS
from statesync.state.sessions import json_fields

__all__ = ["content", "rows", "settle", "wipe"]


def rows(engine: Engine, query: str, **parameters: Any) -> list[Any]:
    """Return the rows of a query, as tuples."""
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(text(query), parameters)]


def content(raw: Any, keys: Keys) -> dict[str, Any]:
    """Return all that Redis holds of characters, sessions and logs, by key, JSON decoded."""
    found: dict[str, Any] = {}
    for key in raw.scan_iter(f"{keys.prefix}*", count=1000):
        name = key.decode().removeprefix(keys.prefix)
        if name.startswith(("statesync:", "dirty_accounts")):
            continue
        if name.endswith(":log"):
            found[name] = [json.loads(entry) for entry in raw.lrange(key, 0, -1)]
            continue
        kind = name.partition(":")[0]
        json_names: Collection[str] = JSON_FIELDS if kind == "ac" else json_fields(kind)
        found[name] = {
            field.decode(): json.loads(value) if field.decode() in json_names else value.decode()
            for field, value in raw.hgetall(key).items()
        }
    return found


def wipe(raw: Any, keys: Keys) -> None:
    """Delete everything in Redis."""
    for key in raw.scan_iter(f"{keys.prefix}*", count=1000):
        raw.delete(key)


def settle(orchestrator: GameStateOrchestrator, char_ids: Iterable[int]) -> None:
    """Save until nothing is dirty: clearing a closed session's references is a change, too."""
    char_ids = list(char_ids)
    for _ in range(6):
        if not orchestrator.hot.status().dirty:
            return
        orchestrator.backup_many(char_ids)
    raise AssertionError(f"always dirty: {orchestrator.backup_many(char_ids)}")
