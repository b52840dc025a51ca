"""Least rights: the whole life of characters with exactly the users of docs/rights.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from sqlalchemy import make_url

from statesync import GameStateOrchestrator, Settings
from statesync.durable import database, migrate, receipts
from statesync.durable.rights import missing_grants
from statesync.embedded.servers import Servers
from statesync.errors import DatabaseForbidden
from statesync.hot.keys import Keys
from statesync.hot.rights import COMMANDS, channels, key_patterns
from statesync.lifecycle.realms import Realms
from statesync.observe.broker_rights import COMMANDS as BROKER_COMMANDS
from statesync.web.app import make_app
from statesync.web.watch import Watch
from tests.acceptance.command_line import run_json
from tests.acceptance.conftest import wait_until
from tests.acceptance.documented import block
from tests.acceptance.serving import serving, up
from tests.acceptance.whole_life import live_whole_life
from tests.conftest import NewDatabase
from tests.integration.web.visitors import OPERATOR, Visitor

PAGE = "rights.md"
USERS = {"statesync": "change-4", "statesync-messages": "change-5"}
ROLES = ("statesync_owner", "statesync_worker", "statesync_reader")


def run_as(
    embedded: Servers, name: str, user: str, statements: list[str], schema: str = "public"
) -> None:
    """Run the page's statements on a database, each in a transaction."""
    path = f"-csearch_path={schema}"
    connection = psycopg2.connect(host=str(embedded.sockets), user=user, dbname=name, options=path)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement.replace("DATABASE game", f'DATABASE "{name}"'))
    connection.close()


def as_role(settings: Settings, name: str, role: str) -> Settings:
    url = make_url(settings.database_url).set(username=role, database=name)
    return replace(settings, database_url=url.render_as_string(hide_password=False))


@pytest.fixture
def name(embedded: Servers, new_database: NewDatabase) -> Iterator[str]:
    """A database with the roles and the tables of the page."""
    made = new_database(empty=True)
    run_as(embedded, made, "postgres", block(PAGE, "CREATE ROLE"))
    yield made
    drop = [f"DROP OWNED BY {role}; DROP ROLE {role}" for role in ROLES]
    run_as(embedded, made, "postgres", drop)


@pytest.fixture
def migrated(name: str, settings: Settings, embedded: Servers) -> str:
    """That database, with the tables as their owner makes them."""
    engine = database.connect(as_role(settings, name, "statesync_owner"))
    migrate.upgrade(engine)
    engine.dispose()
    run_as(embedded, name, "statesync_owner", block(PAGE, "GRANT SELECT, INSERT, UPDATE ON"))
    return name


@pytest.fixture
def users(raw: Any, keys: Keys) -> Iterator[None]:
    """The users of the page in Redis, for the keys of this test."""
    for user in USERS:
        for line in block(PAGE, f"ACL SETUSER {user} "):
            words = line.split()
            if user == "statesync":
                words = [w[0] + keys.prefix + w[1:] if w[0] in "~&" else w for w in words]
            raw.execute_command(*words)
    yield
    raw.execute_command("ACL", "DELUSER", *USERS)


def as_users(settings: Settings) -> Settings:
    """The test's settings, with these users."""
    path = settings.redis_url.removeprefix("unix://").partition("?")[0]
    state, messages = (f"{user}:{word}@{path}" for user, word in USERS.items())
    return replace(
        settings,
        redis_url=f"unix://{state}?db=0",
        broker_url=f"redis+socket://{messages}?virtual_host=1",
        result_url=f"redis+socket://{messages}?virtual_host=2",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("stack", "users")
def test_the_whole_life_with_no_more_rights_than_the_page_gives(
    settings: Settings, migrated: str, embedded: Servers, raw: Any
) -> None:
    raw.execute_command("ACL", "LOG", "RESET")
    live_whole_life(embedded, as_users(as_role(settings, migrated, "statesync_worker")))
    assert raw.execute_command("ACL", "LOG") == []


@pytest.mark.usefixtures("stack", "users")
def test_the_operators_page_needs_no_more(settings: Settings, migrated: str, raw: Any) -> None:
    raw.execute_command("ACL", "LOG", "RESET")
    own = as_users(as_role(settings, migrated, "statesync_worker"))
    with Realms(replace(own, web_operator=":".join(OPERATOR))) as realms:
        orchestrator = realms.orchestrator()
        orchestrator.hot.create(7, state="exploration")
        orchestrator.hot.create(8, state="exploration")
        orchestrator.hot.update_together({7: {"gold": "1"}, 8: {"gold": "2"}})
        raw.hset(orchestrator.hot.keys.core(7), "stats", "{no JSON")
        orchestrator.backup_full_state(7)
        visitor = Visitor(make_app(realms, Watch(realms)))
        visitor.app.state.watch.look("redis", "postgresql")
        visitor.log_in(*OPERATOR)
        for page in ("/", "/quarantine", "/conflicts", "/character?id=7", "/losses", "/actions"):
            assert "does not answer" not in visitor.text(page)
        done = visitor.act("/quarantine/retry", name="7")
        assert "marked" in visitor.text(done.headers["location"])
    assert raw.execute_command("ACL", "LOG") == []


@pytest.mark.slow
@pytest.mark.usefixtures("stack", "users")
def test_what_serve_looks_at_needs_no_more(settings: Settings, migrated: str, raw: Any) -> None:
    raw.execute_command("ACL", "LOG", "RESET")
    with serving(as_users(as_role(settings, migrated, "statesync_worker"))) as serve:
        wait_until(lambda: {*up(serve).values()} == {1})
        wait_until(lambda: serve.scrape().by("check_failed", "check"))
        failed = serve.scrape().by("check_failed", "check")
    assert raw.execute_command("ACL", "LOG") == []
    assert {check for check, is_failed in failed.items() if is_failed} == {"workers", "beat"}


def test_the_page_has_the_rules_of_the_package() -> None:
    lines = block(PAGE, "ACL SETUSER statesync reset")
    rules = {word for line in lines for word in line.split()[3:] if word[0] in "+~&"}
    assert rules == {*key_patterns(""), *channels(""), *(f"+{one}" for one in COMMANDS)}


def test_the_page_gives_what_the_doctor_asks_for_in_the_broker() -> None:
    lines = block(PAGE, "ACL SETUSER statesync-messages reset")
    rules = {word for line in lines for word in line.split()[3:]}
    assert {f"+{command}" for command in BROKER_COMMANDS} <= rules


def test_a_reader_reads_rows_and_writes_none(
    settings: Settings, migrated: str, embedded: Servers
) -> None:
    engine = database.connect(as_role(settings, migrated, "statesync_reader"))
    with database.transaction(engine) as connection:
        tables = "characters, character_stats, sessions, session_characters, combat_log"
        connection.exec_driver_sql(f"SELECT FROM {tables}, inventory_items, scenario_progress")
    with pytest.raises(DatabaseForbidden), database.transaction(engine) as connection:
        connection.exec_driver_sql("DELETE FROM characters")
    engine.dispose()


def test_a_realm_with_a_schema_of_its_own(name: str, settings: Settings, embedded: Servers) -> None:
    def of_realm(role: str) -> Settings:
        own = as_role(settings, name, role)
        url = f"{own.database_url}&options=-csearch_path%3Deu"
        return replace(own, database_url=url, realms="eu", realm="eu")

    create = ["GRANT CREATE ON DATABASE game TO statesync_owner"]
    run_as(embedded, name, "postgres", create)
    engine = database.connect(of_realm("statesync_owner"))
    migrate.upgrade(engine, realm="eu")
    engine.dispose()
    grants = [
        *block(PAGE, "GRANT SELECT, INSERT, UPDATE ON"),
        *block(PAGE, "GRANT USAGE ON SCHEMA"),
    ]
    run_as(embedded, name, "statesync_owner", grants, schema="eu")
    worker = GameStateOrchestrator.from_settings(of_realm("statesync_worker"))
    with database.transaction(worker.engine) as connection:
        assert missing_grants(connection) == []
    worker.hot.create(1, state="exploration")
    assert worker.backup_full_state(1).outcome == "saved"
    worker.close()


def test_a_worker_deletes_old_receipts(settings: Settings, migrated: str) -> None:
    engine = database.connect(as_role(settings, migrated, "statesync_worker"))
    with database.transaction(engine) as connection:
        connection.exec_driver_sql(
            "INSERT INTO durable_changes VALUES (gen_random_uuid(), now() - interval '8 days')"
        )
        assert receipts.purge(connection) == 1
    engine.dispose()


@pytest.mark.parametrize(
    ("revoke", "grant"),
    [
        ("USAGE ON SCHEMA public", "GRANT USAGE ON SCHEMA public TO statesync_worker"),
        ("UPDATE ON sessions", "GRANT UPDATE ON sessions TO statesync_worker"),
    ],
)
def test_a_right_that_is_taken_away_is_named(
    settings: Settings, migrated: str, embedded: Servers, revoke: str, grant: str
) -> None:
    run_as(embedded, migrated, "postgres", [f"REVOKE {revoke} FROM statesync_worker"])
    worker = GameStateOrchestrator.from_settings(as_role(settings, migrated, "statesync_worker"))
    worker.hot.create(1, state="exploration")
    worker.hot.open_session("combat", [1], {"turn": "1"})
    with pytest.raises(DatabaseForbidden, match=grant):
        worker.backup_full_state(1)
    assert worker.hot.sync_state(1).quarantine is None
    run_as(embedded, migrated, "postgres", [grant])
    assert worker.backup_full_state(1).outcome == "saved"
    worker.close()


@pytest.mark.usefixtures("stack", "users")
def test_the_doctor_names_what_is_missing_in_redis(settings: Settings, raw: Any) -> None:
    own = as_users(settings)
    raw.execute_command("ACL", "SETUSER", "statesync", "-sadd", "-zcount")
    raw.execute_command("ACL", "SETUSER", "statesync-messages", "-info", "-lpush")
    checks = run_json(own, "doctor", "--only", "redis", "--only", "broker", status=1)
    found = {check["check"]: check for check in checks if check["status"] == "fail"}
    advice = found["rights in redis"]["do"]
    assert advice.startswith("ACL SETUSER statesync +sadd +zcount; then `statesync scrub`")
    assert found["rights in broker"]["do"] == "ACL SETUSER statesync-messages +info +lpush"
    assert "no permissions to run the 'info' command" in found["broker"]["found"]
    assert "give its user the login or the right" in found["broker"]["do"]
    raw.execute_command("ACL", "SETUSER", "statesync-messages", "+info", "+lpush")
    checks = run_json(own, "doctor", "--only", "broker")
    assert {check["check"]: check["found"] for check in checks}["rights in broker"] == (
        "all that Celery needs"
    )
    raw.execute_command("ACL", "SETUSER", "statesync-messages", "resetkeys", "~other*")
    (found,) = run_json(own, "doctor", "--only", "broker", status=1)
    assert "give its user the login or the right" in found["do"]
