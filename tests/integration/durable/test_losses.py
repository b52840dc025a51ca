"""What is on record of servers that went back in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from statesync.durable import losses, servers
from statesync.durable.losses import Left, Loss, NotLive, Side

START = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def connection(engine: Engine) -> Any:
    with engine.begin() as opened:
        yield opened


def found(side: Side, minute: int = 0, **more: Any) -> Loss:
    return Loss(side=side, found_at=START + timedelta(minutes=minute), **more)


def end(connection: Connection, *, leaves_some: bool = False) -> None:
    losses.end_losses(connection, "p:", START + timedelta(hours=1), leaves_some=leaves_some)


def test_the_last_ten_are_kept_each_prefix_its_own(connection: Connection) -> None:
    for minute in range(12):
        losses.record(connection, "p:", found(Side.REDIS, minute))
        end(connection)
    losses.record(connection, "q:", found(Side.BOTH))
    on_record = losses.all_losses(connection, "p:")
    assert [loss.found_at.minute for loss in on_record] == list(range(2, 12))
    assert {loss.recovered_at for loss in on_record} == {START + timedelta(hours=1)}
    assert losses.all_losses(connection, "q:") == [found(Side.BOTH)]
    assert losses.all_losses(connection, "none:") == []


def test_what_is_found_once_more_is_added_to_its_entry(connection: Connection) -> None:
    losses.record(connection, "p:", found(Side.POSTGRESQL, found_by="backup"))
    lost_at = connection.exec_driver_sql("SELECT lost_at FROM server_counters").scalar_one()
    losses.record(connection, "p:", found(Side.POSTGRESQL, 1, postgresql_sweeps=(5, 2)))
    losses.record(connection, "p:", found(Side.POSTGRESQL, 2, postgresql_sweeps=(5, 3)))
    (loss,) = losses.all_losses(connection, "p:")
    assert loss == found(Side.POSTGRESQL, found_by="backup", postgresql_sweeps=(5, 2))
    assert connection.exec_driver_sql("SELECT lost_at FROM server_counters").scalar_one() == lost_at


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (found(Side.POSTGRESQL), found(Side.REDIS, 1)),
        (found(Side.POSTGRESQL), found(Side.BOTH, 1)),
        (
            found(Side.POSTGRESQL, postgresql_sweeps=(5, 2)),
            found(Side.POSTGRESQL, 1, postgresql_sweeps=(6, 2)),
        ),
        (found(Side.REDIS, redis_sweeps=(5, 2)), found(Side.REDIS, 1, redis_sweeps=(6, 2))),
        (found(Side.REDIS, recovered_at=START), found(Side.REDIS, 1)),
    ],
)
def test_another_loss_has_an_entry_of_its_own(
    connection: Connection, first: Loss, second: Loss
) -> None:
    losses.record(connection, "p:", first)
    losses.record(connection, "p:", second)
    assert losses.all_losses(connection, "p:") == [first, second]


def test_a_record_of_one_loss_is_read_and_goes_on(connection: Connection) -> None:
    connection.exec_driver_sql(
        "INSERT INTO server_counters (key_prefix, lost_at, last_loss) VALUES ('p:', now(),"
        ' \'{"side": "postgresql", "found_at": "2026-11-01T12:00:00+00:00", "found_by": "sweep",'
        ' "postgresql_sweeps": [5, 2], "not_live": [[7, 3, null]]}\')'
    )
    old = found(
        Side.POSTGRESQL,
        postgresql_sweeps=(5, 2),
        not_live=[NotLive(7, 3, None)],
        recovered_at=START,
    )
    assert losses.all_losses(connection, "p:") == [old]
    counters = servers.lock(connection, "p:")
    assert counters
    assert not counters.is_recovering
    losses.record(connection, "p:", found(Side.REDIS, 1))
    assert losses.all_losses(connection, "p:") == [old, found(Side.REDIS, 1)]


@pytest.mark.parametrize(
    ("side", "recovers"), [(Side.REDIS, False), (Side.POSTGRESQL, True), (Side.BOTH, True)]
)
def test_postgresql_remembers_that_it_is_recovered(
    connection: Connection, side: Side, recovers: bool
) -> None:
    def is_recovering() -> bool:
        counters = servers.lock(connection, "p:")
        assert counters
        assert losses.is_recovering(losses.all_losses(connection, "p:")) is counters.is_recovering
        return counters.is_recovering

    assert not is_recovering()
    losses.record(connection, "p:", found(side))
    losses.record(connection, "p:", found(Side.REDIS, 1))
    assert is_recovering() is recovers
    end(connection)
    assert not is_recovering()


def test_what_a_recovery_does_is_on_the_record_of_its_loss(connection: Connection) -> None:
    losses.record(connection, "p:", found(Side.POSTGRESQL))
    losses.record(connection, "p:", found(Side.REDIS, 1))
    many = [Left(char_id, "locked") for char_id in range(1, 400)]
    losses.note_page(connection, "p:", {*range(1, 400)}, many, saved_again=2)
    losses.note_page(connection, "p:", {1, 2}, [Left(2, "still locked")], saved_again=3)
    losses.add_not_live(connection, "p:", [NotLive(i, 2, 1) for i in range(1, 1100)])
    losses.add_not_live(connection, "p:", [NotLive(1, None, 1)])
    losses.add_costs(connection, "p:", reverted=4)
    losses.add_costs(connection, "p:", reverted=1, quarantined=2)
    postgresql, redis = losses.all_losses(connection, "p:")
    assert postgresql.saved_again == 5
    assert (len(postgresql.left), len(postgresql.not_live)) == (299, 1000)
    assert [one.char_id for one in postgresql.left[:2]] == [3, 4]
    assert postgresql.left[-1] == Left(2, "still locked")
    assert postgresql.not_live[0] == NotLive(1, None, 1)
    assert (redis.reverted, redis.quarantined, redis.left) == (5, 2, [])
    end(connection, leaves_some=True)
    assert losses.all_losses(connection, "p:")[0].left == postgresql.left
    assert not losses.reopen(connection, "p:", [1])
    assert losses.reopen(connection, "p:", [1, 3])
    assert [loss.recovered_at is None for loss in losses.all_losses(connection, "p:")] == [
        True,
        False,
    ]
    end(connection)
    assert losses.all_losses(connection, "p:")[0].left == []


def test_as_json_has_everything() -> None:
    shown = found(Side.REDIS, left=[Left(1, "locked")]).as_json()
    assert (shown["side"], shown["left"], shown["recovered_at"]) == ("redis", [(1, "locked")], None)
    assert shown["found_at"] == "2026-11-01T12:00:00Z"
