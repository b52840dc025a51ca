"""Whatever Redis contains, or comes as an argument: every outcome is one of ours.

``-m slow`` tries 100,000 cases. A case is one character, session, argument or setting; many go in
one batch, as in life, where one bad entry must not hold up the others.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import Engine

from statesync import GameStateOrchestrator, Settings, Together
from statesync.cli import main
from statesync.errors import CharacterNotSaved, InvalidInput, SettingsError, StatesyncError
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.state.fields import TIE_FIELD

BATCH = 20
SANE = 999
"""A valid character, in every batch."""

ODD = [
    *("", "{", "[1", "NaN", "null", "true", "0", "-1", "1e999", "9" * 30, "x", '"x"', "[]", "{}"),
    *("\0", '"\\u0000"', '{"\\u0000": 1}', '"\\ud800"', "é" * 9, "[" * 99, "{}x", " {} ", "[1,2]"),
    *('{"current": 1}', '{"current": []}', '{"name": 7}', '{"created_at": "soon"}', "[1.5]"),
    *('{"luck": 1}', '{"luck": "1"}', '{"luck": 99999999999}', '{"hp": 1}', '{"hp": {"cur": "x"}}'),
    *('[{"item_id": "a", "kind": "b", "quantity": 1}]', '[{"item_id": 1}]', "[[]]", "[null]"),
    *('[{"item_id": "", "kind": "b", "quantity": -1}]', "a/../b", "ac:1", "*", "[7,7]", "[0]"),
    *(
        str(UUID(int=7)),
        str(UUID(int=7)).upper(),
        "combat",
        "exploration",
        "007",
        "9007199254740991",
    ),
]
BYTES = st.sampled_from(
    [text.encode() for text in ODD] + [b"\xff", b"\x80abc", b"9" * 5000]
) | st.binary(max_size=9)
TEXTS = st.sampled_from(ODD) | st.text(max_size=9)
JSON = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.lists(TEXTS, max_size=2)
    | st.dictionaries(TEXTS, st.integers() | TEXTS, max_size=2)
)
CORE_FIELDS = st.sampled_from(
    [
        *(b"state", b"location", b"bio", b"stats", b"vitals", b"version", b"saved_version"),
        *(b"combat_session_id", b"inventory_session_id", b"scenario_session_id"),
        TIE_FIELD.encode(),
    ]
) | st.binary(max_size=12)
SESSION_FIELDS = st.sampled_from(
    [
        *(b"monsters", b"turn_order", b"items", b"filters", b"quest_id", b"graph", b"node"),
        *(b"variables", b"participants", b"version", b"closed_at", TIE_FIELD.encode()),
    ]
) | st.binary(max_size=12)
CORES = st.dictionaries(CORE_FIELDS, BYTES, max_size=5)
SESSIONS = st.dictionaries(SESSION_FIELDS, BYTES, max_size=5)
KINDS = st.sampled_from(["combat", "inventory", "scenario"])
PLAYERS = st.tuples(CORES, st.none() | KINDS, SESSIONS, st.lists(BYTES, max_size=2))

OUTCOMES = {"saved", "unchanged", "conflict", "quarantined", "missing", "deleted", "stale"}


def wipe(raw: Any, keys: Keys) -> None:
    names = list(raw.scan_iter(f"{keys.prefix}*", count=1000))
    if names:
        raw.delete(*names)


def put(raw: Any, keys: Keys, char_id: int, player: Any) -> None:
    core, session_type, session, log = player
    fields = dict(core)
    if session_type:
        session_id = str(uuid4())
        fields.setdefault(f"{session_type}_session_id".encode(), session_id.encode())
        session_fields = {b"participants": f"[{char_id}]".encode(), **session}
        raw.hset(keys.session(session_type, session_id), mapping=session_fields)
        if log:
            raw.rpush(keys.session_log(session_type, session_id), *log)
    if fields:
        raw.hset(keys.core(char_id), mapping=fields)
    raw.sadd(keys.dirty, char_id)


@pytest.fixture(params=["quick", pytest.param("long", marks=pytest.mark.slow)])
def many(request: pytest.FixtureRequest) -> Callable[[int, int], Any]:
    """Say how many examples a property is tried with."""

    def decorate(quick: int, long: int) -> Any:
        return examples(
            max_examples=quick if request.param == "quick" else long,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        )

    return decorate


def test_whatever_redis_holds(
    many: Any,
    orchestrator: GameStateOrchestrator,
    hot: HotStore,
    raw: Any,
    keys: Keys,
    engine: Engine,
) -> None:
    commands: Any = hot.commands

    def backup(players: list[Any]) -> None:
        wipe(raw, keys)
        with engine.begin() as connection:
            connection.exec_driver_sql("TRUNCATE characters, sessions, state_conflicts CASCADE")
        raw.set(f"{keys.prefix}bystander", "untouched")
        hot.create(SANE, gold=1)
        for char_id, player in enumerate(players, 1):
            put(raw, keys, char_id, player)
        claims = hot.claim_dirty(
            lease_us=60_000_000, max_in_flight=1000, count=1000, round_ms=60_000, whole=True
        ).claims
        reports = {r.char_id: r for r in orchestrator.backup_claims(claims)}
        assert reports[SANE].outcome == "saved"
        assert {r.outcome for r in reports.values()} <= OUTCOMES
        assert all(r.error for r in reports.values() if r.outcome == "quarantined")
        ids = range(1, len(players) + 1)
        reads = [read(i) for read in (commands.get, commands.get_full_state) for i in ids]
        for result in hot.run_many(reads):
            assert not isinstance(result, StatesyncError) or str(result)
        assert len(orchestrator.restore_many([*ids, SANE])) == len(ids) + 1
        assert hot.status().claimed == 0
        assert raw.get(f"{keys.prefix}bystander") == b"untouched"

    players = st.lists(PLAYERS, min_size=BATCH, max_size=BATCH)
    many(25, 3000)(given(players)(backup))()


VALUES = (
    JSON | st.binary(max_size=5) | st.just(object()) | st.text(alphabet="\ud800\0é", max_size=3)
)
NAMES = st.sampled_from(["state", "stats", "gold", "version", "participants", "items"]) | TEXTS
FIELDS = st.dictionaries(NAMES, VALUES, max_size=4)
ANY_ID = st.integers() | st.just(1) | JSON | st.just(SANE)
ANY_UUID = st.uuids() | TEXTS | st.none()


def test_whatever_game_code_passes(many: Any, hot: HotStore, raw: Any, keys: Keys) -> None:
    wipe(raw, keys)
    hot.create(SANE, gold=1)
    fight = hot.open_session("combat", [SANE], {})
    commands = hot.commands

    def call(char_id: Any, session: Any, fields: Any, session_type: Any, log: Any) -> None:
        target = fight if session is None else session
        builders: list[Callable[[], Any]] = [
            lambda: commands.update(char_id, **fields),
            lambda: commands.create(char_id, **fields),
            lambda: commands.get(char_id),
            lambda: commands.update_together(Together().update(char_id, **fields).update(SANE)),
            lambda: commands.update_together(
                Together()
                .expect(SANE, **fields)
                .update_session(session_type, target, fields, log=log)
            ),
            lambda: commands.open_session(session_type, [char_id], fields),
            lambda: commands.update_session(session_type, target, fields, log=log),
            lambda: commands.join_session(session_type, target, char_id),
            lambda: commands.leave_session(session_type, target, char_id),
            lambda: commands.get_session(session_type, target),
            lambda: commands.claim(char_id, lease_us=1_000_000),
            lambda: commands.sync_state(char_id),
        ]
        for build in builders:
            try:
                command = build()
            except StatesyncError as error:
                assert str(error)
                continue
            except TypeError as error:
                assert "argument" in str(error) or "mapping" in str(error), error
                continue
            assert all(str(key).startswith(keys.prefix) for key in command.keys)
            (result,) = hot.run_many([command])
            assert not isinstance(result, StatesyncError) or str(result)

    cases = given(
        ANY_ID, ANY_UUID, FIELDS, KINDS | TEXTS, st.lists(VALUES, max_size=2) | st.just("text")
    )
    many(60, 2000)(cases(call))()
    assert hot.get(SANE).char_id == SANE


@pytest.mark.usefixtures("hot")
def test_whatever_tasks_are_called_with(many: Any, orchestrator: GameStateOrchestrator) -> None:
    def call(ids: Any, session_type: Any, session: Any) -> None:
        for work in (
            lambda: orchestrator.backup_many(ids),
            lambda: orchestrator.restore_many(ids),
            lambda: orchestrator.backup_sessions(session_type, [session]),
            lambda: orchestrator.delete(ids),
        ):
            try:
                work()
            except StatesyncError as error:
                assert str(error)
            except TypeError as error:
                assert "not iterable" in str(error), error

    ids = st.lists(st.integers(-2, 9) | JSON, max_size=4) | st.integers()
    many(40, 1500)(given(ids, KINDS | TEXTS, st.uuids() | TEXTS)(call))()


WORDS = (
    st.sampled_from(
        [
            *(
                "status",
                "inspect",
                "pending",
                "restore",
                "drain",
                "quarantine",
                "conflicts",
                "list",
            ),
            *("show", "retry", "discard", "scrub", "delete", "--yes", "--json", "--timeout", "0"),
            *(
                "--all-active",
                "--hours",
                "--limit",
                "--help",
                "-1",
                "1",
                "99999999999999999999",
                "x",
            ),
        ]
    )
    | TEXTS
)


def test_whatever_is_typed(
    many: Any,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)

    def type_in(words: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["statesync", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, 1, 2)
        assert "Traceback" not in capsys.readouterr().err

    many(60, 2000)(given(st.lists(WORDS, max_size=4))(type_in))()


def test_whatever_settings_say(many: Any, settings: Settings) -> None:
    names = sorted(settings.to_env())
    password = uuid4().hex

    def read(env: dict[str, str]) -> None:
        env = {name: value.replace("\0", "") for name, value in env.items()}
        try:
            made = Settings.from_env(env)
        except SettingsError as error:
            assert any(name in str(error) for name in env), error
            assert password not in str(error)
        else:
            assert password not in repr(made)

    urls = st.tuples(TEXTS, TEXTS).map(lambda t: f"redis://user:{password}{t[0]}@{t[1]}")
    values = TEXTS | st.integers().map(str) | urls
    cases = given(st.dictionaries(st.sampled_from(names), values, max_size=3))
    many(300, 36_000)(example({"STATESYNC_REALMS": "2"})(cases(read)))()


def test_sizes_are_bounded_with_a_clear_error(hot: HotStore) -> None:
    hot.create(1)
    for call in (
        lambda: hot.update(1, story="x" * 1_100_000),
        lambda: hot.update_together({1: {f"f{i}": 1 for i in range(1001)}}),
        lambda: hot.open_session("combat", [1], {"story": "x" * 1_100_000}),
        lambda: hot.update_together({i: {} for i in range(1, 70)}),
    ):
        with pytest.raises(InvalidInput, match="at most"):
            call()
    assert hot.get(1).version == 1


@pytest.mark.parametrize("number", ["9" * 5000, "²", "x"])
def test_what_is_no_version_holds_up_nobody(
    orchestrator: GameStateOrchestrator, hot: HotStore, raw: Any, keys: Keys, number: str
) -> None:
    """Python itself refuses to read a number of so many digits."""
    for char_id in (1, 2):
        hot.create(char_id)
    raw.hset(keys.core(1), "version", number)
    assert [r.outcome for r in orchestrator.restore_many([1, 2])] == ["live", "live"]
    with pytest.raises(CharacterNotSaved, match="2\\^53-1"):
        orchestrator.evict(1)
    raw.hset(keys.core(3), "gold", "5")
    raw.set(keys.tombstone(3), number)
    assert [r.outcome for r in orchestrator.backup_many([2, 3])] == ["saved", "quarantined"]
