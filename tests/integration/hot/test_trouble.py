"""Redis that refuses to work is trouble of the server, told in a sentence; nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import redis

from statesync.errors import RedisUnavailable

if TYPE_CHECKING:
    from tests.conftest import Driver


class Trouble(NamedTuple):
    begin: Callable[[Any], object]
    end: Callable[[Any], object]
    sentence: str


@pytest.fixture(autouse=True)
def _of_one_server(store: Driver) -> None:
    if isinstance(store.raw, redis.RedisCluster):
        pytest.skip("each node of a cluster is set up by itself")


def become_replica(raw: Any) -> None:
    raw.replicaof("127.0.0.1", 1)


def become_master(raw: Any) -> None:
    raw.config_set("replica-serve-stale-data", "yes")
    raw.replicaof("no", "one")


def lose_master(raw: Any) -> None:
    become_replica(raw)
    raw.config_set("replica-serve-stale-data", "no")


TROUBLES = {
    "READONLY": Trouble(become_replica, become_master, "it is a replica now"),
    "MASTERDOWN": Trouble(lose_master, become_master, "has lost its master"),
    "OOM": Trouble(
        lambda raw: raw.config_set("maxmemory", 1),
        lambda raw: raw.config_set("maxmemory", 0),
        "it is out of memory",
    ),
    "NOREPLICAS": Trouble(
        lambda raw: raw.config_set("min-replicas-to-write", 1),
        lambda raw: raw.config_set("min-replicas-to-write", 0),
        "it has too few replicas",
    ),
}


@pytest.fixture(params=TROUBLES)
def trouble(request: pytest.FixtureRequest, store: Driver) -> Iterator[Trouble]:
    """A server in trouble, on which character 1 was created before."""
    store.create(1, gold=1)
    store.update_together({1: {"gold": 1}})  # loads its script
    found = TROUBLES[request.param]
    if request.param == "NOREPLICAS" and store.raw.info()["redis_version"].startswith("6."):
        pytest.skip("Redis 6.2 does not look at its replicas before a script writes")
    found.begin(store.raw)
    yield found
    found.end(store.raw)


def test_refusal_is_told_and_changes_nothing(store: Driver, trouble: Trouble) -> None:
    changes: list[Callable[[], Any]] = [
        lambda: store.update(1, gold=2),
        lambda: store.update_together({1: {"gold": 2}}),
        lambda: store.create(2),
    ]
    for change in changes:
        with pytest.raises(RedisUnavailable, match=trouble.sentence):
            change()
    results = store.run_many([store.store.commands.update(1, gold=i) for i in (2, 3)])
    assert [type(result) for result in results] == [RedisUnavailable] * 2
    trouble.end(store.raw)
    assert store.get(1).fields["gold"] == "1"
    assert store.update(1, gold=2) == 3


def test_connection_to_a_replica_is_dropped(store: Driver) -> None:
    store.create(1)
    client_ids = {client["id"] for client in store.raw.client_list()}
    become_replica(store.raw)
    try:
        with pytest.raises(RedisUnavailable):
            store.update(1, gold=2)
    finally:
        become_master(store.raw)
    store.update(1, gold=2)
    assert {client["id"] for client in store.raw.client_list()} - client_ids, "connected anew"
