"""A realm in a Redis Cluster: scripts go to its node, also when that becomes another one."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from statesync import Together
from statesync.errors import RedisUnavailable
from statesync.hot.clusters import ClusterMaster
from statesync.hot.exchange import AsyncWire
from statesync.hot.store import AsyncHotStore, HotStore
from tests.clusters import Cluster
from tests.conftest import Driver


@pytest.fixture(params=["cluster-sync", "cluster-async"])
def store(request: pytest.FixtureRequest, redis_cluster: Cluster) -> Iterator[Driver]:
    """Each of the stores, in a realm of the test's own."""
    redis_cluster.flush()
    store_type = HotStore if request.param == "cluster-sync" else AsyncHotStore
    with asyncio.Runner() as runner, redis_cluster.client() as client:
        driver = Driver(store_type(redis_cluster.url, prefix="{eu}:"), client, runner)
        yield driver
        driver.close()


def test_all_of_a_realm_is_on_one_node_and_realms_are_on_several(redis_cluster: Cluster) -> None:
    with redis_cluster.client() as client:
        client.flushall(target_nodes="primaries")
    nodes = set()
    for realm in range(6):
        prefix = f"{{{realm}}}:"
        with HotStore(redis_cluster.url, prefix=prefix) as hot:
            hot.create(1, state="exploration")
            hot.open_session("combat", [1], {"monsters": []})
        port = redis_cluster.master_of(prefix)
        with redis_cluster.node(port) as node:
            assert node.exists(f"{prefix}ac:1", f"{prefix}dirty_accounts") == 2
        nodes.add(port)
    assert len(nodes) == 3


def test_what_games_workers_and_operators_send_works(store: Driver) -> None:
    for char_id in (1, 2):
        store.create(char_id, state="exploration", gold=10)
    store.update_together(Together().expect(1, gold=10).update(1, gold=0).update(2, gold=20))
    replies = store.run_many([store.store.commands.get(char_id) for char_id in (1, 2)])
    assert [reply.fields["gold"] for reply in replies] == ["0", "20"]
    claims = store.claim_dirty(
        lease_us=1_000_000, max_in_flight=10, count=10, round_ms=1000, whole=True
    )
    assert {claim.char_id for claim in claims.claims} == {1, 2}
    cursor, found = 0, set()
    while True:
        page = store.scan(cursor, count=100)
        found |= {*page.char_ids}
        if not (cursor := page.cursor):
            break
    assert found == {1, 2}


def test_slot_that_another_node_has_now_is_followed(store: Driver, redis_cluster: Cluster) -> None:
    """A change that is not made twice: the node that says `MOVED` has done nothing."""
    store.create(1, state="exploration", gold=0)
    for gold in (1, 2):
        before = redis_cluster.master_of("{eu}:")
        redis_cluster.fail_over("{eu}:")
        assert redis_cluster.master_of("{eu}:") != before
        assert store.update(1, gold=gold) == gold + 1
    redis_cluster.wait_whole()


def test_only_what_was_refused_is_sent_again(
    store: Driver, redis_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot moves between two Commands of a batch."""
    store.create(1, state="exploration", gold=0)
    wire: Any = type(store.store._wire)
    exchange, sent = wire.exchange, []
    moved = redis.exceptions.MovedError(f"1 127.0.0.1:{redis_cluster.master_of('{eu}:')}")

    def cut(self: Any, connection: Any, requests: Any, deadline: float) -> Any:
        sent.append(len(requests))
        if len(sent) > 1:
            return exchange(self, connection, requests, deadline)
        return [*exchange(self, connection, requests[:1], deadline), moved]

    async def cut_async(self: Any, connection: Any, requests: Any, deadline: float) -> Any:
        sent.append(len(requests))
        if len(sent) > 1:
            return await exchange(self, connection, requests, deadline)
        return [*await exchange(self, connection, requests[:1], deadline), moved]

    update = store.store.commands.update
    assert store.update(1, gold=0) == 2  # from now on the script is loaded
    with monkeypatch.context() as patch:
        patch.setattr(wire, "exchange", cut_async if wire is AsyncWire else cut)
        assert store.run_many([update(1, gold=1), update(1, gold=2)]) == [3, 4]
    assert sent == [2, 1]
    assert store.get(1).version == 4


def test_reverts_are_heard_by_whoever_listens_in_the_realm(redis_cluster: Cluster) -> None:
    with HotStore(redis_cluster.url, prefix="{eu}:") as hot, redis_cluster.client() as client:
        heard: list[Any] = []
        listener = threading.Thread(target=lambda: heard.extend(hot.reverts()))
        listener.start()
        message = '{"char_ids":[1],"sessions":[]}'
        for _ in range(200):
            client.publish(hot.keys.reverted, message)
            listener.join(0.05)
            if heard:
                break
        assert heard[0].char_ids == (1,)
        hot.close()
        listener.join(10)


def test_cluster_that_is_away_is_said_so(store: Driver) -> None:
    store_type = type(store.store)
    away = Driver(
        store_type("cluster://127.0.0.1:1,127.0.0.1:2", prefix="{eu}:"), None, store.runner
    )
    with pytest.raises(RedisUnavailable, match=r"cluster://127.*no node tells where the slots are"):
        away.get(1)
    away.close()


@pytest.mark.slow
def test_master_that_is_killed_is_replaced(store: Driver, redis_cluster: Cluster) -> None:
    store.create(1, state="exploration", gold=0)
    with redis_cluster.node(redis_cluster.master_of("{eu}:")) as node:
        node.wait(1, 5000)
    port = redis_cluster.master_of("{eu}:")
    redis_cluster.nodes[port].kill()
    errors = 0
    for _ in range(200):
        try:
            store.get(1)
            break
        except RedisUnavailable:
            errors += 1
    assert store.update(1, gold=1) == 2
    assert errors < 200
    redis_cluster.restart(port)
    assert store.update(1, gold=2) == 3


def test_rights_by_the_tag_are_enough(store: Driver, redis_cluster: Cluster) -> None:
    """As docs/realms.md gives them: a user of one realm, who is refused in another one."""
    docs = Path(__file__).parents[3] / "docs"
    (rule,) = re.findall(r"^ACL SETUSER worker-eu (.*)$", (docs / "realms.md").read_text(), re.M)
    rights = re.findall(r"^ACL SETUSER statesync (.*)$", (docs / "rights.md").read_text(), re.M)
    commands = [word for line in rights for word in line.split() if word.startswith("+")]
    url = "cluster://worker-eu:password@" + redis_cluster.url.rpartition("@")[2]
    for port in redis_cluster.nodes:
        redis_cluster.ask(port, "ACL", "SETUSER", "worker-eu", *rule.split(), *commands)
    with (
        HotStore(url, prefix="{eu}:") as hot,
        pytest.raises(RedisUnavailable, match=r"cluster.slots"),
    ):
        hot.status()
    for port in redis_cluster.nodes:
        redis_cluster.ask(port, "ACL", "SETUSER", "worker-eu", "+cluster|slots")
    with HotStore(url, prefix="{eu}:") as hot, HotStore(url, prefix="{us}:") as other:
        hot.create(1, state="exploration")
        hot.update_together({1: {"gold": 1}})
        assert hot.scan(0, count=100).keys
        assert hot.status().dirty == 1
        assert hot.examine([1]).info
        with pytest.raises(RedisUnavailable, match=r"NOPERM|permission"):
            other.create(1, state="exploration")


@pytest.mark.slow
def test_slot_that_moves_at_once_is_followed_under_changes(redis_cluster: Cluster) -> None:
    """`CLUSTER MIGRATESLOTS`, as docs/realms.md advises: no change is lost, refused or doubled."""
    redis_cluster.flush()
    with HotStore(redis_cluster.url, prefix="{eu}:") as hot:
        hot.create(1, state="exploration", gold=0)
        source = redis_cluster.master_of("{eu}:")
        target = next(port for port in redis_cluster.masters() if port != source)
        slot = redis_cluster.ask(source, "CLUSTER", "KEYSLOT", "{eu}:")
        target_id = redis_cluster.ask(target, "CLUSTER", "MYID")
        words = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target_id)
        redis_cluster.ask(source, *words)
        version = 1
        while redis_cluster.master_of("{eu}:") == source or version < 500:
            version += 1
            assert hot.update(1, gold=version) == version
        assert hot.get(1).fields["gold"] == str(version)


def test_slot_that_moves_key_by_key_is_trouble_of_the_server(
    store: Driver, redis_cluster: Cluster
) -> None:
    store.create(1, state="exploration", gold=0)
    source = redis_cluster.master_of("{eu}:")
    target = next(port for port in redis_cluster.masters() if port != source)
    slot = redis_cluster.ask(source, "CLUSTER", "KEYSLOT", "{eu}:")
    nodes = {port: redis_cluster.ask(port, "CLUSTER", "MYID") for port in (source, target)}
    redis_cluster.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", nodes[source])
    redis_cluster.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", nodes[target])
    try:
        store.get(1)  # one key, which is there
        with pytest.raises(RedisUnavailable, match="its slot of the cluster is being moved"):
            store.create(2)
    finally:
        for port in nodes:
            redis_cluster.ask(port, "CLUSTER", "SETSLOT", slot, "STABLE")
    assert store.create(2) == 1


def test_node_that_had_the_slot_knows_best_where_it_is() -> None:
    """Others may not have heard of it yet; the next time they are asked all the same."""
    master = ClusterMaster("cluster://127.0.0.1:1", "{eu}:")
    master.moved(redis.exceptions.MovedError("1 10.0.0.1:7000"))
    assert master.find(1) == ("10.0.0.1", 7000)
    with pytest.raises(redis.ConnectionError):
        master.find(1)
