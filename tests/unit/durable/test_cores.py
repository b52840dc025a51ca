"""The straight way from a row to the texts of a core means the same as the general one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from statesync.durable import cores
from statesync.durable.cores import Core, core_of
from statesync.durable.rows import from_row
from statesync.durable.tables import STATS
from statesync.errors import CorruptState
from statesync.state.characters import CORE_FIELDS, write_character

ROW: dict[str, Any] = {
    "id": 5,
    "name": "Ana",
    "gender": "f",
    "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    "game_stage": "exploration",
    "location_id": "town",
    "prev_location_id": "wood",
    "vitals": '{"hp": {"cur": 5, "max": 9.5}}',
    "extra": '{"gold": "7"}',
    "version": 3,
    "seal": 77,
    "seal_version": 3,
    **{f"stat_{name}": 7 for name in STATS},
    "stats_extra": "{}",
}

numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False))
texts = st.one_of(st.sampled_from(["", "town", "ñ", "\u2028", '"', "\x7f"]), st.text())
values = st.one_of(st.none(), st.booleans(), numbers, texts, st.just([]), st.just({"a": 1.0}))
vitals = st.dictionaries(texts, st.dictionaries(texts, values, max_size=3), max_size=3)
own_names = ("version", "saved_version", "own:version", "statesync:tie", "combat_session_id")
names = st.sampled_from([*CORE_FIELDS, *own_names, "gold"])
extras = st.dictionaries(texts | names, st.one_of(texts, values), max_size=3)
moments = st.datetimes(
    datetime(1, 1, 2),
    datetime(9999, 12, 30),
    timezones=st.sampled_from([UTC, UTC, timezone(timedelta(hours=5, seconds=9))]),
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "name": st.none() | texts,
        "gender": st.none() | texts,
        "created_at": st.none() | moments,
        "game_stage": st.none() | texts,
        "location_id": st.none() | texts,
        "prev_location_id": st.none() | texts,
        "vitals": st.none() | (vitals | values).map(json.dumps) | st.just('{"a":' * 3000),
        "extra": (extras | values).map(json.dumps),
        "seal": st.none() | st.integers(1, 2**63 - 1),
        "seal_version": st.none() | st.integers(2, 3),
        "stats_extra": st.none()
        | (st.dictionaries(texts, numbers, max_size=2) | values).map(json.dumps),
        **{f"stat_{name}": st.none() | st.integers(-(2**31), 2**31 - 1) for name in STATS},
    },
).map(lambda changes: ROW | changes)


def generally(row: dict[str, Any]) -> Core:
    """Return the core that the general codec makes of a row."""
    character = from_row(row)
    fields = write_character(character.core())
    stats = character.stats if character.vitals is None else None
    return Core(row["id"], row["version"], character.seal, fields, stats)


def result(read: Any, row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the core with its fields in their order, or what is wrong with the row."""
    try:
        core = read(row)
    except CorruptState as error:
        return (str(error),)
    return (core, [*core.fields])


# The first example loads the alphabet, which may take seconds.
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows)
@example(ROW | {"location_id": None, "prev_location_id": None})
@example(ROW | {"name": None, "gender": None, "created_at": None})
@example(ROW | {f"stat_{name}": None for name in STATS})
@example(ROW | {"vitals": '{"hp": 5}'})
@example(ROW | {"vitals": None})
@example(ROW | {"extra": '{"bio": "x"}'})
@example(ROW | {"extra": '{"bio": {"title": "x"}}'})
@example(ROW | {"extra": '{"own:version": "x", "version": "y"}'})
@example(ROW | {"extra": '{"gold": 7}'})
@example(ROW | {"stats_extra": '{"fame": 5}'})
@example(ROW | {"stats_extra": None})
def test_both_ways_give_the_same_core_or_the_same_error(row: dict[str, Any]) -> None:
    assert result(core_of, row) == result(generally, row)


def test_row_as_most_are_takes_the_straight_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cores, "from_row")
    fields = core_of(ROW).fields
    assert fields == {
        "state": "exploration",
        "location": '{"current":"town","prev":"wood"}',
        "bio": '{"name":"Ana","gender":"f","created_at":"2026-01-01T00:00:00+00:00"}',
        "stats": json.dumps(dict.fromkeys(STATS, 7), separators=(",", ":")),
        "vitals": '{"hp":{"cur":5,"max":9.5}}',
        "gold": "7",
    }
