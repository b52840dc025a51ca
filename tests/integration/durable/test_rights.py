"""A right that is missing in PostgreSQL is called so, with the GRANT that gives it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Engine, make_url

from statesync import GameStateOrchestrator, Settings
from statesync.durable import database
from statesync.durable.rights import missing_grants
from statesync.errors import DatabaseForbidden
from statesync.hot.store import HotStore
from tests.conftest import FullCore


@pytest.fixture
def as_worker(settings: Settings, engine: Engine) -> Iterator[Settings]:
    """The settings of a worker that has a role of its own, with all rights that it needs."""
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE worker LOGIN")
        connection.exec_driver_sql(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO worker"
        )
        connection.exec_driver_sql("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO worker")
    url = make_url(settings.database_url).set(username="worker")
    yield replace(settings, database_url=url.render_as_string(hide_password=False))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP OWNED BY worker")
        connection.exec_driver_sql("DROP ROLE worker")


def revoke(engine: Engine, rights: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"REVOKE {rights} FROM worker")


@pytest.mark.parametrize(
    ("revoked", "grant"),
    [
        ("UPDATE ON characters", "GRANT UPDATE ON characters TO worker"),
        ("INSERT ON character_stats", "GRANT INSERT ON character_stats TO worker"),
        ("INSERT, UPDATE ON sessions", "GRANT INSERT, UPDATE ON sessions TO worker"),
        ("DELETE ON inventory_items", "GRANT DELETE ON inventory_items TO worker"),
    ],
)
def test_missing_right_is_named_and_no_characters_fault(
    settings: Settings,
    as_worker: Settings,
    engine: Engine,
    hot: HotStore,
    full_core: FullCore,
    revoked: str,
    grant: str,
) -> None:
    hot.create(1, **full_core())
    hot.open_session("inventory", [1], {"items": []})
    revoke(engine, revoked)
    worker = GameStateOrchestrator.from_settings(as_worker)
    with pytest.raises(DatabaseForbidden, match=f"permission denied.*{grant}"):
        worker.backup_full_state(1)
    worker.close()
    assert hot.sync_state(1).quarantine is None
    assert hot.sync_state(1).dirty


def test_all_rights_are_enough(
    as_worker: Settings, engine: Engine, hot: HotStore, full_core: FullCore
) -> None:
    own = database.connect(as_worker)
    with database.transaction(own) as connection:
        assert missing_grants(connection) == []
    # What ``missing_grants`` calls needed is enough: take away all and give just that.
    revoke(engine, "ALL ON ALL TABLES IN SCHEMA public")
    revoke(engine, "ALL ON ALL SEQUENCES IN SCHEMA public")
    with database.transaction(own) as connection:
        grants = missing_grants(connection)
    assert len(grants) == 13
    with engine.begin() as connection:
        for grant in grants:
            connection.exec_driver_sql(grant)
    own.dispose()
    worker = GameStateOrchestrator.from_settings(as_worker)
    hot.create(1, **full_core())
    item = {"item_id": "a", "kind": "sword", "quantity": 1}
    bag = hot.open_session("inventory", [1], {"items": [item]})
    fight = hot.open_session("combat", [1], {"turn": "1"})
    hot.open_session("scenario", [1], {"quest_id": "q", "node": "n"})
    hot.update_session("combat", fight, {"turn": "2"}, log=[{"hit": 1}])
    assert worker.backup_full_state(1).outcome == "saved"
    hot.update_session("inventory", bag, {"items": []})
    hot.close_session("combat", fight)
    assert worker.backup_full_state(1).outcome == "saved"
    worker.evict(1)
    assert worker.restore_full_state(1).outcome == "restored"
    assert worker.delete(1).outcome == "deleted"
    worker.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [({"username": "nobody_here"}, "role .* does not exist"), ({"database": "nowhere"}, "nowhere")],
)
def test_refused_login_is_no_outage(settings: Settings, change: dict[str, str], says: str) -> None:
    url = make_url(settings.database_url).set(**change)  # type: ignore[arg-type]
    own = database.connect(replace(settings, database_url=url.render_as_string(False)))
    with pytest.raises(DatabaseForbidden, match=says):
        database.ping(own)
    own.dispose()
