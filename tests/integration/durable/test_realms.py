"""Two realms never share tables: each writes its name into its schema and refuses another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from sqlalchemy import inspect

from statesync import GameStateOrchestrator, Settings
from statesync.durable import database, migrate
from statesync.embedded.servers import Servers
from statesync.errors import DatabaseForbidden, NotMigrated
from tests.conftest import NewDatabase

Open = Callable[[Settings], GameStateOrchestrator]


@pytest.fixture
def open_() -> Iterator[Open]:
    made = []

    def make(settings: Settings) -> GameStateOrchestrator:
        made.append(GameStateOrchestrator.from_settings(settings))
        return made[-1]

    yield make
    for orchestrator in made:
        orchestrator.close()


def _of(settings: Settings, realm: str, url: str = "") -> Settings:
    url = url or settings.database_url
    return replace(settings, realms=realm, realm=realm, database_url=url)


def test_realm_that_has_migrated_owns_the_tables(settings: Settings, open_: Open) -> None:
    eu, us = open_(_of(settings, "eu")), open_(_of(settings, "us"))
    with pytest.raises(NotMigrated, match="not of realm 'eu' yet; run `statesync migrate`"):
        database.ping(eu.engine)
    migrate.upgrade(eu.engine, realm="eu")
    migrate.upgrade(eu.engine, realm="eu")
    eu.hot.create(1, state="exploration")
    assert eu.backup_full_state(1).outcome == "saved"
    us.hot.create(1, state="exploration")
    with pytest.raises(DatabaseForbidden, match="these tables are of realm 'eu', and we are realm"):
        us.backup_full_state(1)
    with pytest.raises(DatabaseForbidden, match="these tables are of realm 'eu'"):
        migrate.upgrade(us.engine, realm="us")


def test_process_without_realms_refuses_the_tables_of_one(settings: Settings, open_: Open) -> None:
    migrate.upgrade(open_(_of(settings, "eu")).engine, realm="eu")
    alone = open_(settings)
    with pytest.raises(DatabaseForbidden, match="STATESYNC_REALM names none"):
        alone.restore_full_state(1)
    with pytest.raises(DatabaseForbidden):
        migrate.upgrade(alone.engine)


def test_without_realms_a_migration_makes_no_table_more(
    embedded: Servers, settings: Settings, new_database: NewDatabase, open_: Open
) -> None:
    url = embedded.database_url(new_database(empty=True))
    engine = open_(replace(settings, database_url=url)).engine
    migrate.upgrade(engine)
    tables = inspect(engine).get_table_names()
    assert not {"statesync_realm", "statesync_moves"} & set(tables)


def test_realms_may_have_a_schema_each_in_one_database(
    embedded: Servers, settings: Settings, new_database: NewDatabase, open_: Open
) -> None:
    """A migration makes the schema, and what one realm saves is not in the other."""
    url = embedded.database_url(new_database(empty=True)) + "&options=-csearch_path%3Dgame_{realm}"
    both = replace(settings, realms="eu,us", database_url=url)
    eu, us = map(open_, both.each_realm())
    for orchestrator, realm in ((eu, "eu"), (us, "us")):
        migrate.upgrade(orchestrator.engine, realm=realm)
        orchestrator.hot.create(1, state="exploration", guild=realm)
        assert orchestrator.backup_full_state(1).outcome == "saved"
        assert orchestrator.evict(1)
    for orchestrator, realm in ((eu, "eu"), (us, "us")):
        assert orchestrator.restore_full_state(1).outcome == "restored"
        assert orchestrator.hot.get(1).fields["guild"] == realm
