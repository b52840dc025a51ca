"""The straight way from a core to its rows means the same as the general one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from statesync.durable import columns
from statesync.durable.columns import rows_of
from statesync.durable.rows import CoreRows, core_rows
from statesync.durable.tables import STATS
from statesync.errors import CorruptState
from statesync.state.characters import decode_character

CORE = {
    "state": "exploration",
    "location": '{"current": "town", "prev": "wood"}',
    "bio": '{"name": "Ana", "gender": "f", "created_at": "2026-01-01T00:00:00+00:00"}',
    "stats": json.dumps(dict.fromkeys(STATS, 7)),
    "vitals": '{"hp": {"cur": 5, "max": 9.5}}',
    "version": "3",
    "saved_version": "2",
}

numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**31 - 1, 2**31, -(2**31), -(2**31) - 1]),
    st.floats(allow_nan=False, allow_infinity=False),
)
texts = st.one_of(st.sampled_from(["", "town", "\0", "ñ", "\u2028", '"', "\\u0000"]), st.text())
moments = st.one_of(
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5+00:00", "2026-01-01", "x"]),
    st.sampled_from(
        ["2026-01-01T00:00:00-00:00", "20260101T000000+0000", "9999-12-31T23:59:59-09"]
    ),
)
values = st.one_of(st.none(), st.booleans(), numbers, texts, st.just([]), st.just({}))


def objects(known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[str]:
    """Return JSON texts of objects that hold some of the known keys, and sometimes another."""
    valid = st.fixed_dictionaries({}, optional=known)
    return st.one_of(
        valid.map(json.dumps),
        st.tuples(valid, st.dictionaries(texts, values, max_size=2)).map(
            lambda two: json.dumps(two[0] | two[1])
        ),
        st.sampled_from(["{", "null", "[]", "", '{"a": 1}', '{"hp": {"cur": 1}}', "{} "]),
    )


vitals = st.dictionaries(
    texts,
    st.fixed_dictionaries({"cur": numbers, "max": numbers}, optional={"regen": values}),
    max_size=3,
).map(json.dumps)
cores = st.fixed_dictionaries(
    {},
    optional={
        "state": st.one_of(texts, st.just("s" * 200), st.just("s" * 201)),
        "location": objects({"current": texts | values, "prev": texts}),
        "bio": objects(
            {"name": texts, "gender": texts | st.none(), "created_at": moments | values}
        ),
        "stats": objects(dict.fromkeys(STATS, numbers)),
        "vitals": st.one_of(vitals, objects({})),
        "saved_version": st.sampled_from(["2", "0", "", "x", "²", "9" * 16, "9007199254740991"]),
        "gold": texts,
        "a\0b": texts,
        "own:version": texts,
        "combat_session_id": st.sampled_from(["", "x", "123e4567-e89b-12d3-a456-426614174000"]),
        "statesync:tie": st.just(""),
    },
)


def plainly(row: Any) -> dict[str, Any]:
    """Return what PostgreSQL reads of a row; what is absent is NULL there."""
    assert isinstance(row, msgspec.Struct)
    named = {name: getattr(row, name) for name in row.__struct_fields__}
    present = {name: value for name, value in named.items() if value is not UNSET}
    return {
        name: value
        for name, value in json.loads(msgspec.json.encode(present)).items()
        if value is not None
    }


def by_general_codec(core: dict[str, str]) -> Any:
    raw = {name.encode(): text.encode() for name, text in core.items()} | {b"version": b"3"}
    character = decode_character(7, raw)
    return all_of(core_rows(character, 99))


def all_of(rows: CoreRows) -> Any:
    """Return all of it, so that two can be compared."""
    stats = rows.stats and plainly(rows.stats)
    return plainly(rows.row), stats, rows.saved_version, rows.absent


@settings(max_examples=400, deadline=None)
@given(core=cores)
@example(core=CORE)
@example(core=CORE | {"gold": "5"})
@example(core={name: CORE[name] for name in CORE if name != "saved_version"} | {"gold": "5"})
@example(core={name: CORE[name] for name in CORE if name != "version"} | {"gold": "5"})
@example(core=CORE | {"stats": '{"strength": 1, "strength": 2}'})
@example(core=CORE | {"location": '{"current": "", "prev": ""}'})
@example(core=CORE | {"bio": '{"name": "", "gender": ""}'})
@example(core=CORE | {"saved_version": "9" * 17})
def test_it_means_the_same(core: dict[str, str]) -> None:
    try:
        expected = by_general_codec(core)
    except CorruptState as error:
        with pytest.raises(CorruptState, match=r".*") as caught:
            rows_of(7, 3, 99, core)
        assert str(caught.value) == str(error)
        return
    assert all_of(rows_of(7, 3, 99, core)) == expected


def test_what_most_cores_hold_needs_no_general_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "decode_character", None)
    session = "123e4567-e89b-12d3-a456-426614174000"
    rows = rows_of(7, 3, 99, CORE | {"gold": "5", "combat_session_id": session})
    row, stats, saved_version, absent = rows
    assert (saved_version, absent) == (2, ())
    assert row.extra == {"gold": "5", "combat_session_id": session}
    assert row.vitals == {"hp": columns._Vital(5, 9.5)}
    assert stats.luck == 7
