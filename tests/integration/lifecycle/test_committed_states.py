"""Every state that PostgreSQL commits was true at one moment: no gold is missing, none is doubled.

Gold moves between cores and the pots of sessions while two workers save. Triggers sum it up in
every state that PostgreSQL ever commits: first for fights that stay as they are, then while
characters open, join, leave and close fights, log out and log in.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import Engine, text

from statesync import Settings
from statesync.errors import (
    CharacterNotLoaded,
    CharacterNotSaved,
    InSession,
    SessionClosed,
    SessionNotFound,
)
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator

PLAYERS = [1, 2, 3, 4, 5, 6]
GOLD = 100
"""What every character begins with."""
MOST_MEMBERS = 3
SAVES = 60
"""How often each worker saves some of them, at least."""

TRIGGERS = """
CREATE CONSTRAINT TRIGGER of_characters AFTER INSERT OR UPDATE ON characters
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch();
CREATE CONSTRAINT TRIGGER of_sessions AFTER INSERT OR UPDATE ON sessions
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch();
"""
WATCH_EACH_SESSION = f"""
CREATE TABLE seen (session uuid, total bigint, players bigint);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN
  INSERT INTO seen
    SELECT s.id, (s.payload->>'pot')::bigint + sum((c.extra->>'gold')::bigint), count(*)
    FROM sessions s
    JOIN session_characters m ON m.session_id = s.id
    JOIN characters c ON c.id = m.character_id
    GROUP BY s.id;
  RETURN NULL;
END $body$;
{TRIGGERS}"""
WATCH_ALL = f"""
CREATE TABLE seen (total bigint, sessions bigint);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN
  INSERT INTO seen SELECT
    (SELECT sum((extra->>'gold')::bigint) FROM characters)
    + (SELECT coalesce(sum((payload->>'pot')::bigint), 0) FROM sessions),
    (SELECT count(*) FROM sessions);
  RETURN NULL;
END $body$;
{TRIGGERS}"""

Loop = Callable[[random.Random], object]

REFUSED = (CharacterNotLoaded, InSession, SessionClosed, SessionNotFound)
"""What a player meets if another was faster."""


def never(_: int) -> bool:
    return False


class Crowd:
    """Runs loops in threads until the test ends, and keeps their errors."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def start(self, loop: Loop, until: Callable[[int], bool] = never) -> threading.Thread:
        """Call ``loop`` until the crowd stops, a loop fails, or ``until(calls)`` is true."""
        chance = random.Random(len(self._threads))

        def run() -> None:
            calls = 0
            try:
                while not (self._stop.is_set() or self.errors or until(calls)):
                    loop(chance)
                    calls += 1
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()
        return thread

    def stop(self) -> None:
        """Stop and await all loops. Raises the first error of any of them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    made = Crowd()
    yield made
    made.stop()


@pytest.fixture
def clients(settings: Settings) -> Iterator[Callable[[], Any]]:
    """Make clients that know nothing of statesync."""
    made: list[Any] = []

    def make() -> Any:
        made.append(redis.Redis.from_url(settings.redis_url))
        return made[-1]

    yield make
    for client in made:
        client.close()


def number(engine: Engine, query: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(query)).scalar_one())


def saver(worker: GameStateOrchestrator) -> Loop:
    return lambda chance: worker.backup_many(chance.sample(PLAYERS, 3))


def test_fights_that_stay_as_they_are(
    hot: HotStore,
    engine: Engine,
    keys: Keys,
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    crowd: Crowd,
    clients: Callable[[], Any],
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(WATCH_EACH_SESSION)
    for i in PLAYERS:
        hot.create(i, state="exploration", gold=GOLD)
    fight = hot.open_session("combat", [1, 2, 3, 4], {"pot": "0"}, state="combat")
    alone = hot.open_session("inventory", [5], {"pot": "0", "items": []})
    moves: list[int] = []

    def mover(session_type: str, session: UUID, char_ids: list[int]) -> Loop:
        client = clients()

        def move(chance: random.Random) -> None:
            i, gold = chance.choice(char_ids), chance.randint(-9, 9)
            with client.pipeline(transaction=True) as pipe:
                pipe.hincrby(keys.core(i), "gold", -gold)
                pipe.hincrby(keys.session(session_type, str(session)), "pot", gold)
                pipe.sadd(keys.dirty, chance.choice(char_ids))
                pipe.execute()
            moves.append(gold)

        return move

    def enough(saves: int) -> bool:
        """Tell whether the threads met often enough; a busy machine takes longer."""
        seen_of_fight = f"SELECT count(*) FROM seen WHERE session = '{fight}'"
        return saves >= SAVES and len(moves) > 100 and number(engine, seen_of_fight) > 20

    crowd.start(mover("combat", fight, [1, 2, 3, 4]))
    crowd.start(mover("inventory", alone, [5]))
    workers = [crowd.start(saver(worker), enough) for worker in (orchestrator, other)]
    for worker in workers:
        worker.join()
    crowd.stop()

    with engine.begin() as connection:
        totals = connection.execute(
            text("SELECT session, total, players, count(*) FROM seen GROUP BY 1, 2, 3")
        )
        seen = {(session, total, players): times for session, total, players, times in totals}
    assert seen.keys() == {(fight, 4 * GOLD, 4), (alone, GOLD, 1)}
    assert seen[fight, 4 * GOLD, 4] > 20
    assert len(moves) > 100


def mover_of_current_fights(client: Any, keys: Keys) -> Loop:
    """Return what moves gold between a core and the pot of its fight, if it is in one."""

    def move(chance: random.Random) -> None:
        char_id, gold = chance.choice(PLAYERS), chance.randint(-9, 9)
        core = keys.core(char_id)
        with client.pipeline() as pipe, suppress(redis.WatchError):
            pipe.watch(core)
            fight = pipe.hget(core, "combat_session_id")
            if not fight:
                return
            session = keys.session("combat", fight.decode())
            pipe.watch(session)
            if not pipe.exists(session) or pipe.hexists(session, "closed_at"):
                return
            pipe.multi()
            pipe.hincrby(core, "gold", -gold)
            pipe.hincrby(session, "pot", gold)
            pipe.sadd(keys.dirty, char_id)
            pipe.execute()

    return move


def turn(hot: HotStore, chance: random.Random) -> None:
    """Let a character open, join, leave or close a fight; the store refuses what is impossible."""
    char_id, other = chance.sample(PLAYERS, 2)
    with suppress(*REFUSED):
        mine = hot.get(char_id).sessions.get("combat")
        theirs = hot.get(other).sessions.get("combat")
        if mine and chance.random() < 0.15:
            hot.close_session("combat", mine)
        elif mine:
            hot.leave_session("combat", mine, char_id)
        elif theirs and len(hot.get_session("combat", theirs).participants) < MOST_MEMBERS:
            hot.join_session("combat", theirs, char_id)
        else:
            hot.open_session("combat", [char_id], {"pot": "0"})


@pytest.mark.parametrize("logouts", [False, True], ids=["all stay", "some log out"])
def test_fights_whose_members_come_and_go(
    hot: HotStore,
    engine: Engine,
    keys: Keys,
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    crowd: Crowd,
    clients: Callable[[], Any],
    logouts: bool,
) -> None:
    for i in PLAYERS:
        hot.create(i, state="exploration", gold=GOLD)
    orchestrator.backup_many(PLAYERS)
    with engine.begin() as connection:
        connection.exec_driver_sql(WATCH_ALL)

    crowd.start(mover_of_current_fights(clients(), keys))
    crowd.start(lambda chance: turn(hot, chance))
    if logouts:

        def relog(chance: random.Random) -> None:
            char_id = chance.choice(PLAYERS)
            with suppress(CharacterNotSaved):
                other.evict(char_id)
            other.restore_full_state(char_id)

        crowd.start(relog)

    def enough(saves: int) -> bool:
        """Tell whether the threads met often enough; a busy machine takes longer."""
        seen, most = "SELECT count(*) FROM seen", "SELECT coalesce(max(sessions), 0) FROM seen"
        return saves >= SAVES and number(engine, seen) > SAVES and number(engine, most) > 5

    workers = [crowd.start(saver(worker), enough) for worker in (orchestrator, other)]
    for worker in workers:
        worker.join()
    crowd.stop()

    with engine.begin() as connection:
        found = connection.execute(text("SELECT total, count(*) AS times FROM seen GROUP BY 1"))
        totals = {row.total: row.times for row in found}
        most = connection.execute(text("SELECT max(sessions) FROM seen")).scalar_one()
    assert totals.keys() == {len(PLAYERS) * GOLD}
    assert totals[len(PLAYERS) * GOLD] > SAVES
    assert most > 5
    assert orchestrator.hot.status().quarantined == 0

    # The last state has all the gold, too.
    orchestrator.restore_many(PLAYERS)
    for _ in range(10):
        if not hot.status().dirty:
            break
        orchestrator.backup_many(PLAYERS)
    assert hot.status().dirty == 0
    with engine.begin() as connection:
        final = "SELECT total FROM seen ORDER BY ctid DESC LIMIT 1"
        assert connection.execute(text(final)).scalar_one() == len(PLAYERS) * GOLD
