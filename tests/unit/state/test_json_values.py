"""JSON fields: what would come back as another value is refused, with its path and the reason."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest

from statesync.errors import InvalidField
from statesync.state.characters import encode_character
from statesync.state.fields import load_json
from statesync.state.sessions import encode_log, encode_session


@dataclass
class Point:
    x: int


class Colour(Enum):
    RED = "red"


class Weather(StrEnum):
    SUN = "sun"


class Rank(IntEnum):
    KING = 1


MOMENT = datetime(2026, 11, 1, tzinfo=UTC)
DIFFERENT: list[tuple[object, str]] = [
    (math.nan, "nan"),
    (math.inf, "inf"),
    (-math.inf, "-inf"),
    (b"bytes", "bytes"),
    (bytearray(b"bytes"), "bytearray"),
    ({1, 2}, "set"),
    (frozenset({1}), "frozenset"),
    (Point(1), "Point"),
    (Decimal("1.5"), "Decimal"),
    (MOMENT, "datetime"),
    (date(2026, 11, 1), "date"),
    (timedelta(1), "timedelta"),
    (UUID(int=1), "UUID"),
    (Colour.RED, "Colour"),
    ({1: "a"}, "int"),
    (object(), "object"),
]
FIELDS: dict[str, Callable[[object], object]] = {
    "bio.score": lambda value: encode_character({"bio": {"score": value}}),
    "location.exits[1].to": lambda value: encode_character(
        {"location": {"exits": [1, {"to": value}]}}
    ),
    "stats.luck": lambda value: encode_character({"stats": {"luck": value}}),
    "vitals.hp.cur": lambda value: encode_character({"vitals": {"hp": {"cur": value, "max": 1}}}),
    "monsters[0].hp": lambda value: encode_session("combat", {"monsters": [{"hp": value}]}),
    "items[0].attributes.edge": lambda value: encode_session(
        "inventory",
        {"items": [{"item_id": "i", "kind": "k", "quantity": 1, "attributes": {"edge": value}}]},
    ),
    "variables.seen": lambda value: encode_session("scenario", {"variables": {"seen": value}}),
    "mood": lambda value: encode_session("combat", {"mood": value}),
    "log[1].hit": lambda value: encode_log(["first", {"hit": value}]),
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(("value", "shown"), DIFFERENT)
def test_what_comes_back_different_is_refused_by_its_path(
    field: str, value: object, shown: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        FIELDS[field](value)
    assert caught.value.field == field
    assert shown in caught.value.reason


def test_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for call in (
        lambda: encode_character({"bio": {"own": endless}}),
        lambda: encode_log([endless]),
    ):
        with pytest.raises(InvalidField, match="nests deeper than 32"):
            call()


SAME: list[Any] = [
    {"a": [1, 2.5, -0.0, True, None, "x"], "b": {}},
    OrderedDict(a=1),
    defaultdict(list, a=[1]),
    Weather.SUN,
    Rank.KING,
    {"tuple": (1, (2, 3))},
    2**70 + 1,
    1e300,
]


@pytest.mark.parametrize("value", SAME)
def test_what_comes_back_the_same_is_written(value: Any) -> None:
    text = encode_character({"bio": {"own": value}})["bio"]
    assert text is not None
    as_lists = {"tuple": [1, [2, 3]]} if isinstance(value, dict) and "tuple" in value else value
    assert load_json(text) == {"own": as_lists}
    assert encode_log([value])
