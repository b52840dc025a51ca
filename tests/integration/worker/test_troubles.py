"""What a task tells of servers that refuse its work for real: a full disk, a missing right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from statesync.errors import RedisUnavailable
from statesync.hot.commands.troubles import Server, Work
from statesync.hot.store import HotStore
from statesync.lifecycle.realms import Realms
from statesync.lifecycle.troubles import Troubles
from statesync.settings import Settings
from statesync.worker import tasks

FULL_DISK = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  RAISE EXCEPTION 'could not extend file "base/5/1": No space left on device' USING ERRCODE = '53100';
END $$;
CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON characters EXECUTE FUNCTION refuse()
"""  # noqa: E501


@pytest.fixture(autouse=True)
def realms(settings: Settings, hot: HotStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Realms]:
    """Have the tasks work on the servers of the test."""
    made, troubles = Realms(settings), Troubles(hot, settings)
    monkeypatch.setattr(tasks, "realms", lambda: made)
    monkeypatch.setattr(tasks, "troubles", lambda _: troubles)
    yield made
    made.close()


def back_up(hot: HotStore, char_id: int) -> Any:
    """Save a character as a sweep has it saved."""
    claim = hot.claim(char_id, lease_us=60_000_000).claim
    return tasks.backup_full_state.apply(args=(char_id, claim.token))


def execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


@contextmanager
def full_memory(raw: Any) -> Iterator[None]:
    raw.config_set("maxmemory", 1)
    try:
        yield
    finally:
        raw.config_set("maxmemory", 0)


def test_a_full_disk_is_noted_until_something_is_saved(hot: HotStore, engine: Engine) -> None:
    hot.create(1, gold=1)
    execute(engine, FULL_DISK)
    for _ in range(2):
        assert back_up(hot, 1).failed()
    ((server, trouble),) = hot.troubles().items()
    assert server is Server.POSTGRESQL
    assert trouble.works == {Work.BACKUP}
    assert "No space left on device" in trouble.error
    assert tasks.restore_full_state.apply(args=(2,)).get()["outcome"] == "not_found"
    assert hot.troubles(), "a login reads: it says nothing of a full disk"
    execute(engine, "DROP TRIGGER full_disk ON characters")
    assert back_up(hot, 1).get()["outcome"] == "saved"
    assert hot.troubles() == {}


def test_a_missing_right_is_noted_though_sweeps_that_find_nothing_go_well(
    hot: HotStore, raw: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot.create(1)
    rules = ("reset", "on", ">pw", "~*", "&*", "+@all", "-zadd")
    raw.execute_command("ACL", "SETUSER", "worker", *rules)
    url = settings.redis_url.replace("unix://", "unix://worker:pw@")
    try:
        with Realms(replace(settings, redis_url=url)) as realms:
            monkeypatch.setattr(tasks, "realms", lambda: realms)
            assert tasks.sync_dirty.apply().failed()
            raw.srem(hot.keys.dirty, 1)
            assert tasks.sync_dirty.apply().get()["claimed"] == 0
            trouble = hot.troubles()[Server.REDIS]
    finally:
        raw.execute_command("ACL", "DELUSER", "worker")
    assert "+zadd" in trouble.error
    assert trouble.works == {Work.CLAIM}
    done = {"requeued": 0, "claimed": 1, "left": 0, "comparing": False}
    tasks.sync_dirty.on_success(done, "", (), {})
    assert hot.troubles() == {}


def test_redis_without_memory_is_noted_until_a_login_has_room(
    hot: HotStore, raw: Any, realms: Realms
) -> None:
    hot.create(1, gold=1)
    assert back_up(hot, 1).get()["outcome"] == "saved"
    assert hot.evict(1)
    with full_memory(raw):
        with pytest.raises(RedisUnavailable) as refused:
            realms.orchestrator().restore_full_state(1)
        tasks.restore_full_state.on_retry(refused.value, "", (1,), {}, None)
        trouble = hot.troubles()[Server.REDIS]
    assert trouble.works == {Work.RESTORE}
    assert "maxmemory" in trouble.error
    assert tasks.restore_full_state.apply(args=(1,)).get()["outcome"] == "restored"
    assert hot.troubles() == {}
