"""The nonces of durable changes in PostgreSQL: written once, found, forgotten after a week."""

from __future__ import annotations

import threading

from sqlalchemy import Engine, text

from statesync.durable import receipts
from statesync.state.receipts import RETENTION_SECONDS, new_nonce

A_DAY = 24 * 60 * 60


def age(engine: Engine, nonce: str, seconds: int) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE durable_changes SET committed_at = now() - make_interval(secs => :seconds)"
                " WHERE nonce = CAST(:nonce AS uuid)"
            ),
            {"seconds": seconds, "nonce": nonce},
        )


def lose(engine: Engine, prefix: str, seconds_ago: int, side: str = "redis") -> None:
    """Put on record that a server went back."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO server_counters (key_prefix, lost_at, last_loss)"
                " VALUES (:prefix, now() - make_interval(secs => :seconds),"
                " jsonb_build_object('side', CAST(:side AS text), 'found_at',"
                " now() - make_interval(secs => :seconds)))"
            ),
            {"prefix": prefix, "seconds": seconds_ago, "side": side},
        )


def test_what_is_recorded_is_found(engine: Engine) -> None:
    one, two, other = (new_nonce() for _ in range(3))
    with engine.begin() as connection:
        receipts.record(connection, [])
        receipts.record(connection, {one, two})
        receipts.record(connection, [two, two])
        assert receipts.find(connection, [one, other, two, one]) == {one, two}
        assert receipts.find(connection, []) == set()


def test_two_saves_of_the_same_do_not_wait_for_each_other_for_ever(engine: Engine) -> None:
    nonces = [new_nonce() for _ in range(50)]
    go = threading.Barrier(2)

    def save(order: list[str]) -> None:
        with engine.begin() as connection:
            go.wait(30)
            receipts.record(connection, order)

    threads = [threading.Thread(target=save, args=(nonces[::step],)) for step in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with engine.begin() as connection:
        assert receipts.find(connection, nonces) == set(nonces)


def test_old_ones_are_deleted(engine: Engine) -> None:
    old, young = new_nonce(), new_nonce()
    with engine.begin() as connection:
        receipts.record(connection, [old, young])
    age(engine, old, RETENTION_SECONDS + A_DAY)
    age(engine, young, RETENTION_SECONDS - A_DAY)
    with engine.begin() as connection:
        assert receipts.purge(connection) == 1
        assert receipts.purge(connection) == 0
        assert receipts.find(connection, [old, young]) == {young}


def test_two_sweeps_delete_side_by_side(engine: Engine) -> None:
    old = new_nonce()
    with engine.begin() as connection:
        receipts.record(connection, [old])
    age(engine, old, RETENTION_SECONDS + A_DAY)
    with engine.begin() as first, engine.begin() as second:
        assert receipts.purge(first) == 1
        assert receipts.purge(second) == 0


def test_a_loss_is_on_record_for_a_week(engine: Engine) -> None:
    lose(engine, "recent:", RETENTION_SECONDS - A_DAY)
    lose(engine, "old:", RETENTION_SECONDS + A_DAY)
    with engine.begin() as connection:
        (loss,) = receipts.lost_since(connection, "recent:")
        assert (loss.side, loss.recovered_at) == ("redis", loss.found_at)
        assert receipts.lost_since(connection, "old:") == []
        assert receipts.lost_since(connection, "none:") == []
