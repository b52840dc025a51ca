"""Owns the characters of a benchmark and their fights: as Redis holds them, and as rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from statesync.durable.tables import STATS

__all__ = [
    "FIGHTERS",
    "core",
    "core_row",
    "fight",
    "fight_id",
    "fight_key",
    "fight_row",
    "is_fighting",
    "stats_row",
]

FIGHTERS = 4
"""How many are in one fight; the ids of one fight are neighbours."""

_PLACES = ("harbour", "forest", "crypt", "town")
_FIGHT_FIELDS = ("participants", "monsters", "turn_order")


def core(char_id: int, turn: int, *, train: bool = False) -> dict[str, str]:
    """Return a core of about 450 bytes.

    Its place and its vitals differ with the turn; its stats too if it does ``train``.
    """
    stats = {name: 10 + (char_id + i + turn * train) % 20 for i, name in enumerate(STATS)}
    bio = {"name": f"Hero {char_id}", "gender": "f", "created_at": "2026-01-01T00:00:00+00:00"}
    vitals = {name: {"cur": turn % 100, "max": 150} for name in ("hp", "mana", "stamina", "focus")}
    return {
        "state": "exploration",
        "location": json.dumps({"current": _PLACES[turn % 4], "prev": "x" * 40}),
        "bio": json.dumps(bio),
        "stats": json.dumps(stats),
        "vitals": json.dumps(vitals),
    }


def is_fighting(char_id: int, percent: int) -> bool:
    """Tell whether a character is in a fight if ``percent`` of all are, evenly spread."""
    index = (char_id - 1) // FIGHTERS
    return index * percent // 100 < (index + 1) * percent // 100


def fight_id(char_id: int) -> str:
    """Return the id of the fight that a character and its three neighbours are in."""
    return str(UUID(int=(char_id - 1) // FIGHTERS + 1))


def fight_key(fight_id: str) -> str:
    """Return the Redis key of a fight."""
    return f"combat:session:{fight_id}"


def fight(char_ids: Sequence[int], turn: int) -> dict[str, str]:
    """Return the hash of a fight, without its version; its monsters differ with the turn."""
    wolves = [{"kind": "wolf", "hp": turn % 100, "max": 80, "at": [i, turn]} for i in range(3)]
    return {
        "participants": json.dumps(list(char_ids)),
        "monsters": json.dumps(wolves),
        "turn_order": json.dumps([*char_ids, "wolf 1", "wolf 2", "wolf 3"]),
    }


def core_row(char_id: int, core: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return the row of ``characters`` for a core, without any check."""
    bio = json.loads(core.get(b"bio", b"{}"))
    location = json.loads(core.get(b"location", b"{}"))
    return {
        "id": char_id,
        "name": bio.get("name"),
        "gender": bio.get("gender"),
        "created_at": bio.get("created_at"),
        "game_stage": core.get(b"state", b"").decode(),
        "location_id": location.get("current"),
        "prev_location_id": location.get("prev"),
        "vitals": json.loads(core.get(b"vitals", b"{}")),
        "extra": {},
        "version": int(core.get(b"version", b"0")),
    }


def stats_row(char_id: int, core: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return the row of ``character_stats`` for a core, without any check."""
    return {"character_id": char_id, "extra": {}, **json.loads(core.get(b"stats", b"{}"))}


def fight_row(fight_id: str, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return the row of ``sessions`` for a fight, without any check."""
    payload = {name: json.loads(fields[name.encode()]) for name in _FIGHT_FIELDS}
    version = int(fields[b"version"])
    return {"id": fight_id, "session_type": "combat", "payload": payload, "version": version}
