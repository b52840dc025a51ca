"""One instant: what PostgreSQL holds of characters and their sessions was true at one moment.

Gold moves between cores and the pot of a fight while several workers save. A trigger sums it up in
every state that PostgreSQL ever commits.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import Engine, text

from statesync import Settings
from statesync.hot.keys import Keys
from statesync.hot.store import HotStore
from statesync.lifecycle.orchestrator import GameStateOrchestrator

GOLD = 100
"""What every character begins with."""

WATCH = """
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
CREATE CONSTRAINT TRIGGER of_characters AFTER INSERT OR UPDATE ON characters
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch();
CREATE CONSTRAINT TRIGGER of_sessions AFTER INSERT OR UPDATE ON sessions
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION watch();
"""


@pytest.fixture
def watched(engine: Engine) -> Engine:
    """The database, with a trigger that sums up every state at its commit."""
    with engine.begin() as connection:
        connection.exec_driver_sql(WATCH)
    return engine


@pytest.fixture
def moving(settings: Settings, keys: Keys) -> Iterator[Any]:
    """Start threads that move gold between cores and a pot, atomically, until the test ends."""
    stop = threading.Event()
    threads: list[threading.Thread] = []
    moves = [0]

    def move(session_type: str, session: UUID, char_ids: list[int]) -> None:
        chance = random.Random(min(char_ids))
        with redis.Redis.from_url(settings.redis_url) as client:
            while not stop.is_set():
                i, gold = chance.choice(char_ids), chance.randint(-9, 9)
                with client.pipeline(transaction=True) as pipe:
                    pipe.hincrby(keys.core(i), "gold", -gold)
                    pipe.hincrby(keys.session(session_type, str(session)), "pot", gold)
                    pipe.sadd(keys.dirty, chance.choice(char_ids))
                    pipe.execute()
                moves[0] += 1

    def start(*to_move: tuple[str, UUID, list[int]]) -> list[int]:
        threads.extend(threading.Thread(target=move, args=args) for args in to_move)
        for thread in threads:
            thread.start()
        return moves

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def test_every_committed_state_has_all_the_gold(
    hot: HotStore,
    watched: Engine,
    orchestrator: GameStateOrchestrator,
    other: GameStateOrchestrator,
    moving: Any,
) -> None:
    for i in range(1, 7):
        hot.create(i, state="exploration", gold=GOLD)
    fight = hot.open_session("combat", [1, 2, 3, 4], {"pot": "0"}, state="combat")
    alone = hot.open_session("inventory", [5], {"pot": "0", "items": []})
    moves = moving(("combat", fight, [1, 2, 3, 4]), ("inventory", alone, [5]))

    def save(worker: GameStateOrchestrator, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            worker.backup_many(chance.sample(range(1, 7), 3))

    savers = [
        threading.Thread(target=save, args=(w, n)) for n, w in enumerate((orchestrator, other))
    ]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join()
    with watched.begin() as connection:
        totals = connection.execute(
            text("SELECT session, total, players, count(*) FROM seen GROUP BY 1, 2, 3")
        )
        seen = {(session, total, players): number for session, total, players, number in totals}
    assert seen.keys() == {(fight, 4 * GOLD, 4), (alone, GOLD, 1)}
    assert seen[fight, 4 * GOLD, 4] > 20
    assert moves[0] > 100
