"""Sessions under real workers: writers, sweeps and crashes meet, and all is saved whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from statesync import Settings, errors
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from tests.acceptance.bare import MONSTERS, Bare
from tests.acceptance.conftest import (
    WAIT_SECONDS,
    Game,
    middle_of_a_write,
    nothing_went_wrong,
    wait_until,
)
from tests.acceptance.test_contract import rows, waiting_for_a_lock
from tests.conftest import FullCore

pytestmark = pytest.mark.usefixtures("celery_setup")

FINE = {"saved", "unchanged", "superseded", "stale"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Short leases, so that a killed worker's claims come back soon; small batches."""
    return replace(settings, lease_seconds=2, batch_above=10, batch_size=20, max_in_flight=1000)


def uuid_of(name: str) -> UUID:
    return UUID(name.rpartition(":")[2])


def halves(engine: Engine) -> list[tuple[Any, ...]]:
    """Return the open fights of which PostgreSQL shows a half.

    One has a character at another turn, lacks a character, or has another log. One statement sees
    one moment.
    """
    return rows(
        engine,
        """
        SELECT s.id, s.payload->>'turn', array_agg(c.extra->>'turn'),
               (SELECT max((l.entry->>'turn')::int) FROM combat_log l WHERE l.session_id = s.id)
        FROM sessions s
        JOIN session_characters sc ON sc.session_id = s.id
        JOIN characters c ON c.id = sc.character_id
        WHERE s.session_type = 'combat' AND s.closed_at IS NULL
        GROUP BY s.id
        HAVING bool_or(c.extra->>'turn' IS DISTINCT FROM s.payload->>'turn')
            OR count(*) <> jsonb_array_length(s.payload->'participants')
            OR (SELECT max((l.entry->>'turn')::int) FROM combat_log l WHERE l.session_id = s.id)
               IS DISTINCT FROM (s.payload->>'turn')::int
        """,
    )


@contextmanager
def watching(engine: Engine) -> Iterator[None]:
    """Query PostgreSQL all the time: it never shows a half of a group."""
    stop = threading.Event()
    seen: list[Any] = []

    def watch() -> None:
        while not stop.is_set() and not seen:
            seen.extend(halves(engine))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    assert seen == []
    assert halves(engine) == []


def turns(engine: Engine) -> dict[UUID, str]:
    """Return the turn that each fight is at in PostgreSQL."""
    return dict(rows(engine, "SELECT id, payload->>'turn' FROM sessions"))


def test_workers_killed_in_the_middle_of_saving_fights_lose_nothing(
    game: Game, bare: Bare, engine: Engine, hot: HotStore
) -> None:
    parties = [list(range(10 * n + 1, 10 * n + 5)) for n in range(10)]
    fights = [bare.fight(party) for party in parties]
    game.sync_until_clean(hot)
    with watching(engine):
        for turn in (1, 2):
            with middle_of_a_write(engine, parties[4][2]):
                # Played on behind the lock: a sweep that is still on its way may take it at once.
                for name, party in zip(fights, parties, strict=True):
                    bare.play(name, party, turn)
                # Other groups are saved at once; this one stands in its transaction.
                game.sync_until(lambda: waiting_for_a_lock(engine))
                game.worker.kill()
            assert hot.status().claimed > 0
            assert turns(engine)[uuid_of(fights[4])] == str(turn - 1)
            game.worker = game.stack.start_worker(f"worker-after-{turn}")
            game.sync_until_clean(hot)
            assert turns(engine) == {uuid_of(name): str(turn) for name in fights}
    logs = rows(engine, "SELECT DISTINCT count(*) FROM combat_log GROUP BY session_id")
    assert logs == [(3,)]
    nothing_went_wrong(engine, hot)


@pytest.mark.slow
def test_four_direct_backups_of_one_fight_at_once(
    game: Game, bare: Bare, engine: Engine, hot: HotStore
) -> None:
    game.stack.start_worker("worker-2")
    name = bare.fight([1, 2, 3, 4])
    with watching(engine):
        for turn in range(1, 21):
            bare.play(name, [1, 2, 3, 4], turn)
            results = [game.send("backup_full_state", i) for i in (1, 2, 3, 4)]
            outcomes = [result.get(timeout=WAIT_SECONDS)["outcome"] for result in results]
            assert set(outcomes) <= FINE
            # A superseded backup was superseded by one that has ended as well.
            assert turns(engine) == {uuid_of(name): str(turn)}
    game.sync_until_clean(hot)
    log = rows(engine, "SELECT seq, (entry->>'turn')::int FROM combat_log ORDER BY 1")
    assert log == [(turn, turn) for turn in range(21)]
    nothing_went_wrong(engine, hot)


def test_fights_closed_by_the_client_while_workers_sweep(
    game: Game, raw: Any, keys: Keys, engine: Engine, hot: HotStore, full_core: FullCore
) -> None:
    parties = [list(range(10 * n + 1, 10 * n + 5)) for n in range(5)]
    for char_id in (i for party in parties for i in party):
        hot.create(char_id, **full_core(char_id))
    fights = [
        hot.open_session("combat", p, {"monsters": MONSTERS}, state="combat") for p in parties
    ]
    stop = threading.Event()
    written: dict[UUID, int] = dict.fromkeys(fights, 0)
    ends: dict[UUID, str] = {}

    def play(session: UUID) -> None:
        try:
            while True:
                hot.update_session("combat", session, {"turn": "x"}, log=[written[session]])
                written[session] += 1
        except errors.StatesyncError as error:
            ends[session] = repr(error)

    def sweep() -> None:
        while not stop.is_set():
            game.call("sync_dirty")

    players = [threading.Thread(target=play, args=[session]) for session in fights]
    sweeper = threading.Thread(target=sweep)
    for thread in (*players, sweeper):
        thread.start()
    try:
        saved = "SELECT count(*) FROM combat_log WHERE seq = 20"
        wait_until(lambda: rows(engine, saved) == [(5,)])
        for number, session in enumerate(fights):
            hot.close_session("combat", session, {"result": f"won {number}"})
            for char_id in parties[number]:
                hot.update(char_id, state="exploration")
        for player in players:
            player.join()
    finally:
        stop.set()
        sweeper.join()
    game.sync_until_clean(hot)
    assert all("Session" in end for end in ends.values()), ends
    found = rows(engine, "SELECT id, payload->>'result', closed_at IS NULL FROM sessions")
    assert {i: (result, is_open) for i, result, is_open in found} == {
        session: (f"won {number}", False) for number, session in enumerate(fights)
    }
    logs = rows(engine, "SELECT session_id, count(*), max(seq) + 1 FROM combat_log GROUP BY 1")
    assert {i: (count, end) for i, count, end in logs} == {i: (n, n) for i, n in written.items()}
    for session, party in zip(fights, parties, strict=True):
        assert not raw.exists(keys.session("combat", str(session)))
        assert not raw.exists(keys.session_log("combat", str(session)))
        for char_id in party:
            assert hot.get(char_id).sessions == {}
    stages = "SELECT DISTINCT game_stage, extra ? 'combat_session_id' FROM characters"
    assert rows(engine, stages) == [("exploration", False)]
    nothing_went_wrong(engine, hot)


class TestTwoBeats:
    """Beat started twice by mistake, and a game that sweeps as well."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return replace(settings, sync_seconds=1, lease_seconds=60)

    def test_and_two_sweeps_at_once_do_no_harm(
        self, game: Game, bare: Bare, engine: Engine, hot: HotStore
    ) -> None:
        for n in (1, 2):
            game.stack.start(f"beat-{n}", "beat", "--loglevel", "INFO")
        parties = [list(range(10 * n + 1, 10 * n + 5)) for n in range(20)]
        fights = [bare.fight(party) for party in parties]
        last = 0
        with watching(engine):
            seen: set[str] = set()
            while len(seen) < 5:
                last += 1
                for name, party in zip(fights, parties, strict=True):
                    bare.play(name, party, last)
                for result in [game.send("sync_dirty") for _ in range(2)]:
                    result.get(timeout=WAIT_SECONDS)
                seen.update(turns(engine).values())
            # By the beats alone, without a sweep of ours.
            wait_until(lambda: turns(engine) == {uuid_of(name): str(last) for name in fights})
        wait_until(lambda: (hot.status().dirty, hot.status().claimed) == (0, 0))
        logs = rows(engine, "SELECT DISTINCT count(*) FROM combat_log GROUP BY session_id")
        assert logs == [(last + 1,)]
        nothing_went_wrong(engine, hot)


def test_a_fight_closed_while_it_is_being_saved_keeps_its_end(
    game: Game, raw: Any, keys: Keys, engine: Engine, hot: HotStore, full_core: FullCore
) -> None:
    for char_id in (1, 2):
        hot.create(char_id, **full_core(char_id))
    fight = hot.open_session("combat", [1, 2], {"monsters": MONSTERS})
    hot.update_session("combat", fight, log=["begins"])
    game.sync_until_clean(hot)
    hot.update_session("combat", fight, {"round": "2"}, log=["goes on"])
    with middle_of_a_write(engine, 2):
        backup = game.send("backup_full_state", 1)
        wait_until(lambda: waiting_for_a_lock(engine))
        # The snapshot holds an open fight, and knows nothing of its end.
        hot.update_session("combat", fight, log=["ends"])
        hot.close_session("combat", fight, {"result": "won"})
    assert backup.get(timeout=WAIT_SECONDS)["outcome"] == "saved"
    game.sync_until_clean(hot)
    assert rows(engine, "SELECT payload->>'result', closed_at IS NULL FROM sessions") == [
        ("won", False)
    ]
    log = rows(engine, "SELECT entry FROM combat_log ORDER BY seq")
    assert log == [("begins",), ("goes on",), ("ends",)]
    assert not raw.exists(keys.session("combat", str(fight)))
    assert hot.get(1).sessions == hot.get(2).sessions == {}


HALF = """
CREATE TABLE half (session uuid);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN
  INSERT INTO half
    SELECT s.id FROM sessions s JOIN session_characters m ON m.session_id = s.id
    JOIN characters c ON c.id = m.character_id
    GROUP BY s.id HAVING count(DISTINCT c.extra->>'round') > 1
      OR min(c.extra->>'round') IS DISTINCT FROM min(s.payload->>'round');
  RETURN NULL;
END $body$;
CREATE CONSTRAINT TRIGGER of_characters AFTER INSERT OR UPDATE ON characters
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch();
"""


class TestSmallBatches:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return replace(settings, batch_size=5)

    @pytest.mark.slow
    def test_killed_workers_leave_no_half_of_a_fight(
        self, game: Game, bare: Bare, engine: Engine, hot: HotStore
    ) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(HALF)
        parties = [[i, i + 1, i + 2, i + 3] for i in range(1, 161, 4)]
        fights = [bare.open("combat", party, {"round": "0"}, round="0") for party in parties]
        for turn in range(1, 6):
            for party, name in zip(parties, fights, strict=True):
                bare.write(party, {"round": turn}, {name: {"round": turn}}, {name: [turn]})
            before = hot.status().counters.get("saved", 0)
            game.send("sync_dirty")
            game.sync_until(partial(saved_more, hot, before))
            game.worker.kill()
            game.worker = game.stack.start_worker(f"worker-{turn + 1}")
        game.sync_until_clean(hot)
        assert rows(engine, "SELECT DISTINCT extra->>'round' FROM characters") == [("5",)]
        assert rows(engine, "SELECT DISTINCT payload->>'round' FROM sessions") == [("5",)]
        assert rows(engine, "SELECT count(*), count(DISTINCT seq) FROM combat_log") == [(200, 5)]
        assert rows(engine, "SELECT count(*) FROM half") == [(0,)]
        assert hot.list_quarantine() == (0, [])


def saved_more(hot: HotStore, before: int) -> bool:
    return hot.status().counters.get("saved", 0) > before
