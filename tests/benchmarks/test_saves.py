"""The floor saves what is in Redis, and a turn that does not save is no figure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from benchmarks.bench import Bench
from benchmarks.characters import core_row, fight_key, fight_row, stats_row
from benchmarks.saves import Saver, Saves
from benchmarks.servers import Place
from statesync import Settings
from statesync.durable.tables import character_stats, characters, session_characters, sessions
from statesync.embedded.servers import Servers


@pytest.fixture
def saves(embedded: Servers, settings: Settings, tmp_path: Path) -> Iterator[Saves]:
    """Saves of 8 characters, all in fights, in a Redis database that no other test uses."""
    given = replace(settings, redis_url=embedded.redis_url(7), key_prefix="")
    place = Place(given, tmp_path, {})
    with contextlib.closing(Bench(place, sizes=[8], percents=[100], processes=1)) as bench:
        yield Saves(bench, 8, 100)


def test_the_floor_saves_characters_stats_and_fights(saves: Saves, engine: Engine) -> None:
    turn = saves.floor()
    turn()
    assert turn()["characters/s"] > 0
    client, ids = saves.bench.client, saves.ids(Saver.FLOOR)
    cores = {char_id: client.hgetall(f"ac:{char_id}") for char_id in ids}
    fights = {core[b"combat_session_id"].decode() for core in cores.values()}
    with engine.begin() as connection:
        for char_id, core in cores.items():
            wanted = core_row(char_id, core)
            found = connection.execute(select(characters).filter_by(id=char_id)).mappings().one()
            assert found["created_at"].isoformat() == wanted.pop("created_at")
            assert {name: found[name] for name in wanted} == wanted
            query = select(character_stats).filter_by(character_id=char_id)
            assert dict(connection.execute(query).mappings().one()) == stats_row(char_id, core)
        for fight_id in fights:
            wanted = fight_row(fight_id, client.hgetall(fight_key(fight_id)))
            found = connection.execute(select(sessions).filter_by(id=fight_id)).mappings().one()
            assert (found["payload"], found["version"]) == (wanted["payload"], wanted["version"])
        members = connection.scalars(select(session_characters.c.character_id)).all()
        assert sorted(members) == list(ids)


def test_a_turn_that_saves_nothing_is_no_figure(saves: Saves, engine: Engine) -> None:
    with pytest.raises(AssertionError, match="8 of 8 are not saved"):
        saves.measured(saves.ids(Saver.STATESYNC), lambda: None)
