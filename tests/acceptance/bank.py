"""A bank whose books must balance at every commit, whatever goes back in time."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from statesync import GameStore
from statesync.embedded.servers import Servers
from tests.acceptance.command_line import run
from tests.acceptance.conftest import wait_until
from tests.acceptance.rewind import BackUpPostgres, CutTail, LoadSnapshot, Moment, PromoteReplica
from tests.acceptance.topologies import BehindSentinels, InCluster
from tests.acceptance.traffic import GOLD, ITEMS, open_bank
from tests.acceptance.world import World, running

__all__ = ["Bank", "bank"]

# Every transaction commits all the money and every item, and makes trails longer.
AUDIT = """
CREATE TABLE wrong_sum (gold bigint, items bigint, at timestamptz DEFAULT now());
CREATE TABLE torn_trail (id bigint, was text, became text);
CREATE TABLE commits (id bigint);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE gold bigint; items bigint;
BEGIN
    SELECT sum((extra->>'gold')::bigint) INTO gold FROM characters WHERE extra ? 'gold';
    SELECT count(*) INTO items FROM inventory_items;
    IF gold <> {gold} OR items <> {items} THEN
        INSERT INTO wrong_sum (gold, items) VALUES (gold, items);
    END IF;
    INSERT INTO commits VALUES (txid_current());
    RETURN NULL;
END $$;
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NOT starts_with(NEW.extra->>'trail' || ' ', OLD.extra->>'trail' || ' ') THEN
        INSERT INTO torn_trail VALUES (OLD.id, OLD.extra->>'trail', NEW.extra->>'trail');
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER audit AFTER INSERT OR UPDATE ON characters
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit();
CREATE CONSTRAINT TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON inventory_items
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TRIGGER follow AFTER UPDATE ON characters FOR EACH ROW EXECUTE FUNCTION follow();
"""


class Bank(World):
    """A world whose players trade; its servers may go back in time."""

    def __init__(
        self,
        servers: Servers,
        exits: contextlib.ExitStack,
        where: str,
        *,
        ids: range,
        seed: int,
    ) -> None:
        super().__init__(servers, exits, where)
        self.ids = ids
        self.chance = random.Random(seed)
        self.forgotten: list[tuple[float, float]] = []
        """When changes were accepted that Redis may have forgotten, by the monotonic clock."""
        self.recovering: list[tuple[float, float]] = []
        """When PostgreSQL was older than what was live, in Unix seconds."""
        self.commits = 0
        self.recorded: dict[int, set[str]] = defaultdict(set)
        """The trades that a character had when it was taken out of play."""
        with GameStore(self.direct) as store:
            open_bank(store, ids)
            for char_id in ids:
                store.mark_dirty(char_id, durable=True)
        self.execute(AUDIT.format(gold=GOLD * len(ids), items=ITEMS * len(ids)))

    def start_traders(self, kind: str) -> None:
        """Start two processes that trade for all characters."""
        for _ in range(2):
            seed = self.chance.randrange(10**6)
            self.start_player(kind, seed, self.ids.start, len(self.ids))

    # Faults

    def cut_tail(self) -> None:
        self.lose(CutTail)

    def cut_tail_anywhere(self) -> None:
        self.lose(lambda servers: CutTail(servers, spare=self.chance))

    def promote_replica(self) -> None:
        self.lose(PromoteReplica)

    def load_snapshot(self) -> None:
        self.lose(LoadSnapshot)

    def lose(self, way: Callable[[Servers], Moment]) -> None:
        """Have Redis forget some changes."""
        begun = time.monotonic()
        before = way(self.servers)
        self.play_on(self.chance.randint(20, 200))
        before.go_back()
        self.forgotten.append((begun, time.monotonic()))

    def fail_over(self) -> None:
        """Kill the master; its replica, which has been cut off for a while, takes its place."""
        assert isinstance(self.topology, BehindSentinels | InCluster)
        begun = time.monotonic()
        with self.topology.cut_off():
            self.play_on(self.chance.randint(20, 200))
        self.play_on(20)
        self.forgotten.append((begun, time.monotonic()))

    def kill_broker(self) -> None:
        """Kill a master as well, if it is the broker: its replica may lack what came last."""
        begun = time.monotonic()
        super().kill_broker()
        self.forgotten.append((begun, time.monotonic()))

    def freeze_master(self) -> None:
        """Two masters for a while: what the former one takes is lost when it is told."""
        assert isinstance(self.topology, BehindSentinels)
        begun = time.monotonic()
        self.topology.freeze_master()
        self.play_on(20)
        self.topology.trio.wait_whole()
        self.forgotten.append((begun, time.monotonic()))

    def put_postgres_back(self) -> None:
        """Have PostgreSQL forget some changes; none that is live is lost.

        What Redis has lost before is settled first: what both have lost is nobody's to mend.
        """
        self.wait_settled()
        before = BackUpPostgres(self.servers)
        self.play_on(self.chance.randint(100, 300))
        self.read_books()
        begun, times = time.time(), self.times_postgresql_went_back()
        before.go_back()
        wait_until(lambda: self.times_postgresql_went_back() > times and self.is_settled())
        self.recovering.append((begun, time.time()))

    def times_postgresql_went_back(self) -> int:
        return self.hot.status().counters.get("postgresql_went_back", 0)

    def wait_settled(self) -> None:
        """Wait until sweeps have found what went back, and what they marked is decided."""
        seen = self.sweeps()
        wait_until(lambda: self.sweeps() >= seen + 2 and self.is_settled())
        undecided = self.unsaved()

        def all_decided() -> bool:
            undecided.intersection_update(self.unsaved())
            return not undecided

        wait_until(all_decided)

    def sweeps(self) -> int:
        return int(self.rows("SELECT coalesce(sum(sweeps), 0) FROM server_counters")[0][0])

    def unsaved(self) -> set[str]:
        with self.topology.client() as client:
            dirty: Any = client.smembers(self.keys.dirty)
            claimed: Any = client.zrange(self.keys.claimed, 0, -1)
            return {*dirty, *claimed}

    def is_settled(self) -> bool:
        """Whether no loss is being settled."""
        status = self.hot.status()
        if status.comparing or status.settling or status.recovering:
            return False
        return not self.hot.list_dropped()

    # What must hold

    def check(self) -> str:
        """Stop the players, settle everything, and compare it with what they have written down."""
        self.settle()
        run(self.direct, "scrub")
        wait_until(lambda: self.hot.status()[:2] == (0, 0) and self.is_settled())
        self.nothing_is_left_over()
        self.read_books()
        self.check_redis()
        assert self.forgotten or not self.recorded
        trails = dict(self.rows("SELECT id, extra->>'trail' FROM characters"))
        held = {char_id: set(trail.split()) for char_id, trail in trails.items()}
        trades = self.changes()
        for trade in trades:
            name, sides = trade["trade"], trade["sides"]
            if trade["durable"]:
                assert all(name in held[i] for i in sides), trade
            elif not self.may_be_forgotten(*trade["during"]):
                assert all(name in held[i] | self.recorded[i] for i in sides), (
                    trade,
                    self.forgotten,
                )
        return f"{self.report(len(trades))}; {self.commits} commits audited, every one right"

    def may_be_forgotten(self, begun: float, ended: float) -> bool:
        return any(begun < end and start < ended for start, end in self.forgotten)

    def read_books(self) -> None:
        """Check the audit so far, and keep what PostgreSQL forgets if it is put back."""
        assert self.rows("SELECT * FROM step_back LIMIT 3") == []
        assert self.rows("SELECT * FROM torn_trail LIMIT 3") == []
        wrong = self.rows("SELECT extract(epoch FROM at), gold, items FROM wrong_sum")
        for at, *books in wrong:
            assert any(start <= at <= end for start, end in self.recovering), books
        [(self.commits,)] = self.rows("SELECT count(DISTINCT id) FROM commits")
        for char_id, state in self.rows("SELECT character_id, state FROM state_conflicts"):
            self.recorded[char_id] |= set(_trails(state))

    def check_redis(self) -> None:
        """Check that what is live is as its rows, and all the money and every item is there."""
        rows = {
            i: (gold, trail)
            for i, gold, trail in self.rows(
                "SELECT id, extra->>'gold', extra->>'trail' FROM characters"
            )
        }
        with self.topology.client() as client:
            for char_id in self.ids:
                live: Any = client.hmget(self.keys.core(char_id), "gold", "trail")
                if live != [None, None]:
                    assert tuple(live) == rows[char_id], char_id
            keys = client.scan_iter(f"{self.keys.prefix}inventory:session:*")
            bags = [client.hget(key, "items") for key in keys]
        assert sum(int(gold) for gold, _ in rows.values()) == GOLD * len(self.ids)
        items = [item["item_id"] for bag in bags for item in json.loads(bag)]
        assert len(items) == len(set(items))
        [(count,)] = self.rows("SELECT count(*) FROM inventory_items")
        assert count == ITEMS * len(self.ids)


def _trails(state: object) -> Iterator[str]:
    """Give the trades of each trail in a record."""
    if isinstance(state, str) and state.startswith(("{", "[")):
        yield from _trails(json.loads(state))
    elif isinstance(state, list):
        for part in state:
            yield from _trails(part)
    elif isinstance(state, dict):
        yield from str(state.get("trail", "")).split()
        yield from _trails(list(state.values()))


@contextlib.contextmanager
def bank(seed: int, where: str = "single", *, size: int = 300) -> Iterator[Bank]:
    """Run a bank of ``size`` characters on the servers of a topology."""
    with running() as (servers, exits):
        yield Bank(servers, exits, where, ids=range(1, size + 1), seed=seed)
