"""A game that writes what the contract says with plain Redis commands."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from statesync import Settings

__all__ = ["MONSTERS", "Bare"]

MONSTERS = [{"id": "orc", "hp": 30, "loot": ["axe", None]}, {"id": "rat", "hp": 2.5}]
BOOKKEEPING = ("statesync:", "dirty_accounts")
"""How the keys begin that are no state of the game."""


class Bare:
    """A game that knows the keys and fields of the contract, and nothing of statesync."""

    def __init__(self, raw: Any, settings: Settings) -> None:
        self.raw = raw
        self.prefix = settings.prefix

    def key(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def write(
        self,
        char_ids: list[int],
        fields: dict[str, Any] | None = None,
        sessions: dict[str, dict[str, Any]] | None = None,
        log: dict[str, list[Any]] | None = None,
    ) -> None:
        """Write the same fields to some cores, and sessions by their names, and mark the cores."""
        with self.raw.pipeline(transaction=True) as pipe:
            for char_id in char_ids:
                if fields:
                    pipe.hset(self.key(f"ac:{char_id}"), mapping=fields)
            for name, values in (sessions or {}).items():
                pipe.hset(self.key(name), mapping=values)
            for name, entries in (log or {}).items():
                if entries:
                    pipe.rpush(self.key(f"{name}:log"), *map(json.dumps, entries))
            pipe.sadd(self.key("dirty_accounts"), *char_ids)
            pipe.execute()

    def open(
        self,
        session_type: str,
        char_ids: list[int],
        fields: dict[str, Any],
        log: Any = (),
        **core: Any,
    ) -> str:
        """Open a session and return its name."""
        session_id = str(uuid4())
        name = f"{session_type}:session:{session_id}"
        values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
        values["participants"] = json.dumps(char_ids)
        core[f"{session_type}_session_id"] = session_id
        self.write(char_ids, core, {name: values}, {name: list(log)})
        return name

    def fight(self, char_ids: list[int], turn: int = 0) -> str:
        """Open a fight; cores, session and log carry the turn, which shows a half-saved fight."""
        fields = {"monsters": MONSTERS, "turn_order": char_ids, "turn": turn}
        return self.open("combat", char_ids, fields, [{"turn": turn}], state="combat", turn=turn)

    def play(self, name: str, char_ids: list[int], turn: int) -> None:
        """Play one turn of a fight: the fight and all its characters change together."""
        self.write(char_ids, {"turn": turn}, {name: {"turn": turn}}, {name: [{"turn": turn}]})

    def content(self) -> dict[str, Any]:
        """Return all characters, sessions and logs in Redis, JSON decoded."""
        names = [
            name
            for key in self.raw.scan_iter(f"{self.prefix}*", count=5000)
            if not (name := key.decode().removeprefix(self.prefix)).startswith(BOOKKEEPING)
        ]
        with self.raw.pipeline(transaction=False) as pipe:
            for name in names:
                if name.endswith(":log"):
                    pipe.lrange(self.key(name), 0, -1)
                else:
                    pipe.hgetall(self.key(name))
            replies = pipe.execute()
        return {name: _decoded(reply) for name, reply in zip(names, replies, strict=True)}

    def wipe(self) -> None:
        """Lose everything."""
        self.raw.delete(*self.raw.scan_iter(f"{self.prefix}*", count=5000))


def _decoded(reply: Any) -> Any:
    if isinstance(reply, dict):
        return {field.decode(): _decoded(value) for field, value in reply.items()}
    if isinstance(reply, list):
        return [_decoded(entry) for entry in reply]
    try:
        return json.loads(reply)
    except ValueError:
        return reply.decode(errors="surrogateescape")
