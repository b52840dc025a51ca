"""Scripts that work through a long list in parts leave out none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from statesync.hot.commands.claims import Claim
from statesync.state.fields import MAX_FIELDS
from tests.integration.hot.acks import CoreAck, group_ack

if TYPE_CHECKING:
    from tests.conftest import Driver

MANY = [*range(1, 2501)]
"""More than two parts of any script."""


def test_acknowledge_ends_every_claim(store: Driver) -> None:
    claims = [Claim(char_id, 7) for char_id in MANY]
    store.raw.zadd(store.keys.claimed, {str(claim.char_id): claim.token for claim in claims})
    store.raw.zadd(store.keys.since, {str(char_id): 5 for char_id in MANY})
    store.raw.hset(store.keys.quarantine, mapping={str(char_id): "{}" for char_id in MANY})
    store.raw.hset(store.keys.seals, mapping={str(char_id): "5" for char_id in MANY})
    acks = [group_ack(9, [CoreAck(claim, 1, 1)], seal=5) for claim in claims]
    assert store.acknowledge_many(acks) == set()
    assert not store.raw.exists(store.keys.claimed, store.keys.since, store.keys.quarantine)


def test_acknowledge_keeps_every_mark_that_was_set_since(store: Driver) -> None:
    claims = [Claim(char_id, 7) for char_id in MANY]
    store.raw.zadd(store.keys.claimed, {str(claim.char_id): claim.token for claim in claims})
    store.raw.sadd(store.keys.dirty, *MANY)
    store.raw.hset(store.keys.seals, mapping={str(char_id): "5" for char_id in MANY})
    acks = [group_ack(9, [CoreAck(claim, 1, 1)], seal=5) for claim in claims]
    assert store.acknowledge_many(acks) == set()
    assert not store.raw.exists(store.keys.claimed)
    assert store.raw.zcount(store.keys.since, 9, 9) == len(MANY)


def test_claim_dirty_claims_a_whole_page(store: Driver) -> None:
    store.raw.sadd(store.keys.dirty, *MANY)
    step = store.claim_dirty(
        lease_us=60_000_000, max_in_flight=10_000, count=10_000, round_ms=60_000, whole=True
    )
    assert sorted(claim.char_id for claim in step.claims) == MANY
    assert not store.raw.exists(store.keys.dirty)


def test_update_writes_and_deletes_every_field(store: Driver) -> None:
    store.create(1)
    fields = {f"field {i}": str(i) for i in range(MAX_FIELDS)}
    store.update(1, fields)
    assert store.get(1).fields == fields
    store.update(1, dict.fromkeys(fields))
    assert store.get(1).fields == {}
