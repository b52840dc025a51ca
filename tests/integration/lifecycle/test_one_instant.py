"""One instant, while who is with whom keeps changing: no gold is ever missing or there twice.

Gold moves between cores and the pots of fights; at the same time characters open, join, leave and
close fights, log out and log in, and two workers save. A trigger sums up all gold in every state
that PostgreSQL ever commits. ``test_instant`` has the same for fights that stay as they are.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

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
"""How often each worker saves some of them."""

WATCH = """
CREATE TABLE seen (total bigint, sessions bigint);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN
  INSERT INTO seen SELECT
    (SELECT sum((extra->>'gold')::bigint) FROM characters)
    + (SELECT coalesce(sum((payload->>'pot')::bigint), 0) FROM sessions),
    (SELECT count(*) FROM sessions);
  RETURN NULL;
END $body$;
CREATE CONSTRAINT TRIGGER of_characters AFTER INSERT OR UPDATE ON characters
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch();
CREATE CONSTRAINT TRIGGER of_sessions AFTER INSERT OR UPDATE ON sessions
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch();
"""

Loop = Callable[[random.Random], object]

REFUSED = (CharacterNotLoaded, InSession, SessionClosed, SessionNotFound)
"""What a player may meet whom somebody else was faster than."""


class Crowd:
    """Runs loops in threads until the test is done, and keeps what went wrong in them."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def start(self, loop: Loop, *, turns: int | None = None) -> threading.Thread:
        """Call ``loop`` again and again, ``turns`` times or until the crowd goes home."""
        chance = random.Random(len(self._threads))

        def run() -> None:
            done = 0
            try:
                while not self._stop.is_set() and done != turns:
                    loop(chance)
                    done += 1
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()
        return thread

    def go_home(self) -> None:
        """Stop and await all of them. Raises the first error that one had."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    made = Crowd()
    yield made
    made.go_home()


@pytest.fixture
def mover(settings: Settings, keys: Keys) -> Iterator[Loop]:
    """Move gold between a core and its fight's pot, as a game that knows nothing of statesync."""
    client: Any = redis.Redis.from_url(settings.redis_url)

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

    yield move
    client.close()


def turn(hot: HotStore, chance: random.Random) -> None:
    """Let a character open, join, leave or close a fight; what has become impossible is refused."""
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


def saver(worker: GameStateOrchestrator) -> Loop:
    return lambda chance: worker.backup_many(chance.sample(PLAYERS, 3))


@pytest.mark.parametrize("logouts", [False, True], ids=["all stay", "some log out"])
def test_whoever_comes_and_goes_all_gold_is_there_once(
    hot: HotStore,
    engine: Engine,
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    crowd: Crowd,
    mover: Loop,
    logouts: bool,
) -> None:
    for i in PLAYERS:
        hot.create(i, state="exploration", gold=GOLD)
    orchestrator.backup_many(PLAYERS)
    with engine.begin() as connection:
        connection.exec_driver_sql(WATCH)

    crowd.start(mover)
    crowd.start(lambda chance: turn(hot, chance))
    if logouts:

        def relog(chance: random.Random) -> None:
            char_id = chance.choice(PLAYERS)
            with suppress(CharacterNotSaved):
                other.evict(char_id)
            other.restore_full_state(char_id)

        crowd.start(relog)
    workers = [crowd.start(saver(worker), turns=SAVES) for worker in (orchestrator, other)]
    for worker in workers:
        worker.join()
    crowd.go_home()

    with engine.begin() as connection:
        found = connection.execute(text("SELECT total, count(*) AS number FROM seen GROUP BY 1"))
        totals = {row.total: row.number for row in found}
        most = connection.execute(text("SELECT max(sessions) FROM seen")).scalar_one()
    assert totals.keys() == {len(PLAYERS) * GOLD}
    assert totals[len(PLAYERS) * GOLD] > SAVES
    assert most > 5
    assert orchestrator.hot.status().quarantined == 0

    # And what is left in the end is all there, too.
    orchestrator.restore_many(PLAYERS)
    for _ in range(10):
        if not hot.status().dirty:
            break
        orchestrator.backup_many(PLAYERS)
    assert hot.status().dirty == 0
    with engine.begin() as connection:
        final = "SELECT total FROM seen ORDER BY ctid DESC LIMIT 1"
        assert connection.execute(text(final)).scalar_one() == len(PLAYERS) * GOLD
