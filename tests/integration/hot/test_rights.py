"""A right that is missing in Redis is called so, is nobody's fault, and leaves nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from statesync import GameStateOrchestrator, Settings, Together
from statesync.errors import RedisForbidden, StatesyncError
from statesync.hot.keys import Keys
from statesync.hot.rights import COMMANDS, channels, key_patterns
from statesync.hot.store import HotStore
from statesync.lifecycle.scrub import scrub_pages
from statesync.lifecycle.sweep import drain
from tests.conftest import Driver

SetRights = Callable[..., None]
"""Gives the user ``player`` all rights, and then what it is called with."""


@pytest.fixture
def set_rights(raw: Any, keys: Keys) -> Iterator[SetRights]:
    all_rules = [*key_patterns(keys.prefix), *channels(keys.prefix), *(f"+{c}" for c in COMMANDS)]

    def set_rights(*more: str) -> None:
        raw.execute_command("ACL", "SETUSER", "player", "reset", "on", ">pw", *all_rules, *more)

    set_rights()
    yield set_rights
    raw.execute_command("ACL", "DELUSER", "player")


@pytest.fixture
def as_player(settings: Settings) -> Settings:
    url = settings.redis_url.replace("unix://", "unix://player:pw@")
    return replace(settings, redis_url=url, lease_seconds=1)


@pytest.mark.parametrize(
    ("rules", "grant"),
    [
        (["-sadd"], r"ACL SETUSER player \+sadd$"),
        (["-evalsha"], r"ACL SETUSER player \+evalsha$"),
        (["-script|load"], r"ACL SETUSER player \+script\|load$"),
        (["resetkeys", "~x"], r"ACL SETUSER player ~\S*ac:\* .* ~\S*dirty_accounts\* "),
        ([">new", "<pw"], "invalid username-password pair or user is disabled"),
    ],
)
def test_what_is_missing_is_named(
    set_rights: SetRights, as_player: Settings, raw: Any, rules: list[str], grant: str
) -> None:
    raw.script_flush()
    set_rights(*rules)
    with HotStore.from_settings(as_player) as hot, pytest.raises(RedisForbidden, match=grant):
        hot.create(1, state="exploration")


def test_update_that_may_not_mark_changes_nothing(
    set_rights: SetRights, as_player: Settings
) -> None:
    with HotStore.from_settings(as_player) as hot:
        hot.create(1, state="exploration", gold=1)
        set_rights("-sadd")
        with pytest.raises(RedisForbidden, match=r"\+sadd$"):
            hot.update(1, gold=2)
        assert (hot.get(1).version, hot.get(1).fields["gold"]) == (1, "1")


def test_each_right_is_asked_for(set_rights: SetRights, as_player: Settings) -> None:
    with HotStore.from_settings(as_player) as hot:
        assert hot.lacking_rights() == []
        for command in (one for one in COMMANDS if one != "evalsha"):
            set_rights(f"-{command}")
            assert hot.lacking_rights() == [f"+{command}"]


def test_no_right_that_is_missing_is_a_characters_fault(
    set_rights: SetRights, as_player: Settings, hot: HotStore
) -> None:
    """Whichever it is: nobody is in quarantine, and all is saved once it is there again."""
    worker = GameStateOrchestrator.from_settings(as_player)
    needed = (one for one in COMMANDS if "|" not in one and one not in ("ping", "select"))
    for first, command in enumerate(needed, 1):
        ids = [10 * first + n for n in range(4)]
        set_rights()
        for char_id in ids:
            worker.hot.create(char_id, state="exploration", gold=1)
        fight = worker.hot.open_session("combat", ids[:2], {"turn": "1"})
        worker.hot.update_session("combat", fight, {"turn": "2"}, log=[{"hit": 3}])
        worker.hot.update_together(Together().update(ids[2], gold=2).update(ids[3], gold=2))
        set_rights(f"-{command}")
        for work in (
            lambda: worker.hot.update(ids[0], gold=5),  # noqa: B023
            lambda: worker.backup_many(ids),  # noqa: B023
            lambda: worker.evict(ids[3]),  # noqa: B023
            lambda: worker.restore_many(ids),  # noqa: B023
        ):
            try:
                work()
            except RedisForbidden as error:
                assert f"+{command}" in str(error)
            except StatesyncError:
                pass  # such as a logout that cannot be
        assert hot.list_quarantine() == (0, []), command
    set_rights()
    for _ in scrub_pages(worker):
        pass
    drain(worker, as_player, 60)
    assert hot.status()[:2] == (0, 0)
    assert hot.list_quarantine() == (0, [])
    worker.close()


@pytest.mark.parametrize("store", ["redis62-sync"], indirect=True)
def test_redis_62_names_what_it_tells(store: Driver, redis_62: str) -> None:
    store.raw.execute_command("ACL", "SETUSER", "player", "on", ">pw", "~*", "+@all", "-sadd")
    url = redis_62.replace("unix://", "unix://player:pw@")
    with HotStore(url, prefix=store.keys.prefix) as hot:
        assert hot.lacking_rights() is None
        with pytest.raises(RedisForbidden, match=r"can't run this command.*\+sadd"):
            hot.create(1, state="exploration")
    store.raw.execute_command("ACL", "DELUSER", "player")
