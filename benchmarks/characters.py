"""Owns what the characters of a benchmark, and their fights, are made of, as Redis holds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

from statesync.durable.tables import STATS

__all__ = ["IN_A_FIGHT", "core", "fight", "fight_id", "fights"]

IN_A_FIGHT = 4
_PLACES = ("harbour", "forest", "crypt", "town")


def core(char_id: int, turn: int, *, train: bool = False) -> dict[str, str]:
    """Return a core of about 600 bytes: the place and the vitals are of this turn, and the stats of
    those who ``train``."""
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


def fights(char_id: int, percent: int) -> bool:
    """Tell whether a character is in a fight where ``percent`` of all are: evenly spread fours."""
    four = (char_id - 1) // IN_A_FIGHT
    return four * percent // 100 < (four + 1) * percent // 100


def fight_id(char_id: int) -> str:
    """Return the id of the fight that a character and the three next to it are in."""
    return str(UUID(int=(char_id - 1) // IN_A_FIGHT + 1))


def fight(char_ids: Sequence[int], turn: int) -> dict[str, str]:
    """Return the hash of a fight of this turn, without its version."""
    wolves = [{"kind": "wolf", "hp": turn % 100, "max": 80, "at": [i, turn]} for i in range(3)]
    return {
        "participants": json.dumps(list(char_ids)),
        "monsters": json.dumps(wolves),
        "turn_order": json.dumps([*char_ids, "wolf 1", "wolf 2", "wolf 3"]),
    }
