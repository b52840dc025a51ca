"""What a core may hold: everything that can be saved, and nothing that cannot."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statesync.errors import CorruptState, InvalidCharId, InvalidField
from statesync.state import session_types
from statesync.state.characters import (
    CORE_FIELDS,
    Character,
    decode_character,
    encode_character,
    parse_time,
    write_character,
)
from statesync.state.fields import MAX_CORE_BYTES, check_char_id, parse_char_id

if TYPE_CHECKING:
    from tests.conftest import FullCore

SESSION = "123e4567-e89b-12d3-a456-426614174000"


def as_bytes(core: dict[str, str | None]) -> dict[bytes, bytes]:
    return {name.encode(): text.encode() for name, text in core.items() if text is not None}


def test_full_core_round_trip(full_core: FullCore) -> None:
    core = full_core(9, inventory_session_id=SESSION)
    read = decode_character(
        9, as_bytes(encode_character(core)) | {b"version": b"3", b"saved_version": b"2"}
    )
    assert read.core() == core
    assert (read.char_id, read.version, read.saved_version) == (9, 3, 2)
    assert read.sessions == {"inventory": UUID(SESSION)}


def test_empty_core_is_an_empty_character() -> None:
    assert decode_character(1, {}) == Character(1)


def test_unknown_stats_bio_keys_and_fields_are_kept() -> None:
    raw = {b"stats": b'{"stealth":3}', b"bio": b'{"title":null}', b"guild": b"x"}
    read = decode_character(1, raw)
    assert (read.stats, read.bio, read.fields) == ({"stealth": 3}, {"title": None}, {"guild": "x"})


def test_numbers_and_uuids_are_written_as_text() -> None:
    core = encode_character({"gold": 5, "luck": 0.5, "combat_session_id": UUID(SESSION)})
    assert core == {"gold": "5", "luck": "0.5", "combat_session_id": SESSION}


DEEP = b'{"a":' * 40 + b"1" + b"}" * 40
VERY_DEEP = b"[" * 200_000

BROKEN = [
    (b"bio", b"{", "bio", "not valid JSON"),
    (b"bio", b"", "bio", "not valid JSON"),
    (b"bio", b'{"age": NaN}', "bio", "not valid JSON"),
    (b"bio", b'{"age": Infinity}', "bio", "not valid JSON"),
    (b"bio", b'{"name": "\\ud800"}', "bio", "not valid JSON"),
    (b"bio", b'{"name": "\xed\xa0\x80"}', "bio", "not UTF-8"),
    (b"bio", b'{"name": "\\u0000"}', "bio.name", "NUL"),
    (b"bio", b'{"a": {"\\u0000": 1}}', "bio.a", "NUL"),
    (b"bio", b'{"a": [1, "\\u0000"]}', "bio.a[1]", "NUL"),
    (b"bio", b"\0", "bio", "NUL"),
    (b"bio", DEEP, "bio", "deeper than 32"),
    (b"bio", VERY_DEEP, "bio", "deeper than 32"),
    (b"bio", b"[]", "bio", "must be a JSON object, not a list"),
    (b"bio", b"null", "bio", "not null"),
    (b"bio", b'{"name": 5}', "bio.name", "must be a string or null"),
    (b"bio", b'{"gender": []}', "bio.gender", "must be a string or null"),
    (b"bio", b'{"created_at": "yesterday"}', "bio.created_at", "ISO 8601"),
    (b"bio", b'{"created_at": true}', "bio.created_at", "ISO 8601"),
    (b"bio", b'{"created_at": 1e300}', "bio.created_at", "ISO 8601"),
    (b"stats", b'"x"', "stats", "not a string"),
    (b"stats", b'{"luck": "5"}', "stats.luck", "must be an integer, not a string"),
    (b"stats", b'{"luck": 1.5}', "stats.luck", "must be an integer, not a number"),
    (b"stats", b'{"luck": true}', "stats.luck", "not a boolean"),
    (b"stats", b'{"luck": null}', "stats.luck", "not null"),
    (b"stats", b'{"luck": 2147483648}', "stats.luck", "outside"),
    (b"vitals", b'{"hp": 5}', "vitals.hp", "an object with cur and max"),
    (b"vitals", b'{"hp": {"cur": 5}}', "vitals.hp.max", "absent"),
    (b"vitals", b'{"hp": {"cur": "5", "max": 1}}', "vitals.hp.cur", "not a string"),
    (b"vitals", b'{"hp": {"cur": true, "max": 1}}', "vitals.hp.cur", "not a boolean"),
    (b"location", b"5", "location", "not a number"),
    (b"location", b'{"current": 1.5}', "location.current", "a string, an integer or null"),
    (b"location", b'{"prev": {}}', "location.prev", "not an object"),
    (b"state", b"", "state", "1 to 200"),
    (b"state", b"x" * 201, "state", "1 to 200"),
    (b"state", b"\xff", "state", "not UTF-8"),
    (b"state", b"a\0b", "state", "NUL"),
    (b"combat_session_id", b"abc", "combat_session_id", "must be a UUID"),
    (b"combat_session_id", b"123e4567e89b12d3a456426614174000", "combat_session_id", "UUID"),
    (b"version", b"-1", "version", "2^53-1"),
    (b"version", b"9007199254740992", "version", "2^53-1"),
    (b"version", b"1.0", "version", "2^53-1"),
    (b"saved_version", b"x", "saved_version", "2^53-1"),
    (b"guild", b"a\0b", "guild", "NUL"),
    (b"guild", b"\xff", "guild", "not UTF-8 (byte 0)"),
    (b"g\0", b"x", "g\0", "the field's name holds a NUL"),
    (b"\xff", b"x", "\\xff", "the field's name is not UTF-8"),
]


@pytest.mark.parametrize(("name", "raw", "field", "reason"), BROKEN)
def test_what_cannot_be_saved_is_named(name: bytes, raw: bytes, field: str, reason: str) -> None:
    with pytest.raises(CorruptState) as caught:
        decode_character(7, {b"gold": b"1", name: raw})
    assert caught.value.char_id == 7
    assert caught.value.field == field
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"bio": "text"}, "bio", "must be a mapping, not str"),
        ({"bio": None}, "bio", "must be a mapping, not NoneType"),
        ({"bio": {"name": "\ud800"}}, "bio", "surrogate"),
        ({"bio": {"name": "\0"}}, "bio.name", "NUL"),
        ({"bio": {"a\0": 1}}, "bio", "NUL"),
        ({"bio": {"x": object()}}, "bio.x", "is of the type object"),
        ({"bio": json.loads(DEEP)}, "bio", "deeper"),
        ({"stats": {"luck": "5"}}, "stats.luck", "must be an integer"),
        ({"stats": {"luck": float("nan")}}, "stats.luck", "is nan, which JSON does not have"),
        ({"gold": float("nan")}, "gold", "is nan, which is no number"),
        ({"gold": float("-inf")}, "gold", "is -inf, which is no number"),
        ({"vitals": {"hp": {"cur": 1}}}, "vitals.hp.max", "absent"),
        ({"location": {"current": 1.5}}, "location.current", "integer"),
        ({"state": 5}, "state", "must be a string, not int"),
        ({"state": ""}, "state", "1 to 200"),
        ({"combat_session_id": "abc"}, "combat_session_id", "UUID"),
        ({"combat_session_id": 5}, "combat_session_id", "must be a string"),
        ({"": "x"}, "", "non-empty"),
        ({"gold": True}, "gold", "must be a string or a number, not bool"),
        ({"state": None}, "state", "must be a string, not NoneType"),
        ({"gold": [1]}, "gold", "must be a string or a number, not list"),
        ({"gold": "\0"}, "gold", "NUL"),
        ({"gold": "\udfff"}, "gold", "surrogate"),
        ({"go\0ld": "x"}, "go\0ld", "NUL"),
        ({"\ud800": "x"}, "\ud800", "surrogate"),
        ({"small": "1", "large": "x" * MAX_CORE_BYTES}, "large", "at most 1048576"),
        ({f"f{i}": "" for i in range(1001)}, "(all)", "at most 1000"),
    ],
)
def test_what_game_code_may_not_write(fields: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidField) as caught:
        encode_character(fields)
    assert caught.value.field == field
    assert reason in caught.value.reason


RESERVED = ["version", "saved_version", "statesync:tie", "durable"]


@pytest.mark.parametrize("name", [*RESERVED, *(f"own:{n}" for n in RESERVED), "own:", "own:own:x"])
def test_own_field_may_have_any_name(name: str) -> None:
    written = encode_character({name: "x"})
    assert written.keys().isdisjoint({"version", "saved_version", "statesync:tie"})
    read = decode_character(1, as_bytes(written) | {b"version": b"7"})
    assert (read.fields, read.version) == ({name: "x"}, 7)
    assert write_character(read.core()) == written


def test_none_deletes_an_own_field_and_clears_a_session() -> None:
    fields = {"gold": None, "version": None, "combat_session_id": None, "guild": "x"}
    assert encode_character(fields) == {
        "gold": None,
        "own:version": None,
        "combat_session_id": None,
        "guild": "x",
    }


def test_a_registered_type_is_checked_as_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {**session_types.reference_fields(), "fishing_session_id": "fishing"}
    monkeypatch.setattr(session_types, "reference_fields", lambda: fields)
    for bad in ("nonsense", 5):
        with pytest.raises(InvalidField, match="fishing_session_id"):
            encode_character({"fishing_session_id": bad})
    with pytest.raises(CorruptState, match="fishing_session_id"):
        decode_character(1, {b"fishing_session_id": b"nonsense"})
    written = encode_character({"fishing_session_id": UUID(SESSION)})
    assert written == {"fishing_session_id": SESSION}
    raw = {b"fishing_session_id": SESSION.encode(), b"swimming_session_id": SESSION.encode()}
    assert decode_character(1, raw).sessions == {"fishing": UUID(SESSION)}


def test_a_type_that_is_not_registered_is_an_own_field() -> None:
    read = decode_character(1, {b"fishing_session_id": b"nonsense"})
    assert (read.sessions, read.fields) == ({}, {"fishing_session_id": "nonsense"})


def cycle() -> dict[str, Any]:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    return endless


def test_endless_value_is_refused() -> None:
    with pytest.raises(InvalidField, match="bio"):
        encode_character({"bio": cycle()})


def test_largest_core_is_accepted() -> None:
    name = "notes"
    text = "x" * (MAX_CORE_BYTES - len(name))
    assert encode_character({name: text}) == {name: text}


@pytest.mark.parametrize("good", [1, 2, 2**53 + 1, 2**63 - 1])
def test_id(good: int) -> None:
    assert check_char_id(good) == good
    assert parse_char_id(str(good)) == good


@pytest.mark.parametrize(
    "bad", [0, -1, 2**63, True, False, "42", "42; DROP TABLE characters", [42], None, 1.0, {}]
)
def test_what_is_no_id(bad: object) -> None:
    with pytest.raises(InvalidCharId, match="is not a character id: it must be an integer from 1"):
        check_char_id(bad)


@pytest.mark.parametrize(
    "bad", ["", "0", "01", "-1", "+1", " 1", "1\n", "1_0", "\uff11", "abc", str(2**63), "9" * 5000]
)
def test_text_that_is_no_id(bad: str) -> None:
    with pytest.raises(InvalidCharId) as caught:
        parse_char_id(bad)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-11-01T12:00:00+00:00", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        ("2026-11-01T12:00:00Z", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        ("2026-11-01T12:00:00", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        ("2026-11-01T14:00:00+02:00", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1.5, datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)),
    ],
)
def test_times(value: object, moment: datetime) -> None:
    assert parse_time(value) == moment


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
own_names = texts.filter(
    lambda name: name not in {"", "version", "saved_version", "statesync:tie"}
).filter(lambda name: name not in CORE_FIELDS and not name.endswith("_session_id"))


@given(st.dictionaries(own_names, texts), st.dictionaries(texts, st.integers(-(2**31), 2**31 - 1)))
def test_whatever_is_accepted_comes_back(own: dict[str, str], stats: dict[str, int]) -> None:
    read = decode_character(1, as_bytes(encode_character({"stats": stats, **own})))
    assert read.fields == own
    assert read.stats == stats


@given(st.sampled_from([*CORE_FIELDS, "version", "combat_session_id", "x"]), st.binary())
def test_no_bytes_break_the_reader(name: str, raw: bytes) -> None:
    try:
        read = decode_character(1, {name.encode(): raw})
    except CorruptState as error:
        assert error.field.startswith(name)
    else:
        assert encode_character(read.core()) is not None
