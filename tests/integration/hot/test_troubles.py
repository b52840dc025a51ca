"""The notes on servers that refuse the work of workers."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from statesync.errors import CorruptState
from statesync.hot.commands.troubles import Server, Work

if TYPE_CHECKING:
    from tests.conftest import Driver

KEEP = 60_000


def entry(store: Driver, name: str) -> Any:
    return json.loads(store.raw.hget(store.keys.troubles, name))


def age(store: Driver, name: str, ms: int) -> None:
    """Make a note older."""
    found = entry(store, name)
    older = {key: found[key] - ms for key in ("since_ms", "last_ms", "until_ms")}
    store.raw.hset(store.keys.troubles, name, json.dumps(found | older))


def test_a_note_says_what_is_refused_why_and_since_when(store: Driver) -> None:
    assert store.troubles() == {}
    store.note_trouble(Server.POSTGRESQL, Work.BACKUP, "disk full", keep_ms=KEEP)
    (server, trouble), *more = store.troubles().items()
    assert (server, more) == ("postgresql", [])
    assert trouble.error == "disk full"
    assert trouble.works == {"backup"}
    assert abs(trouble.since_ms / 1000 - time.time()) < 60
    assert trouble.last_ms == trouble.since_ms


def test_news_leave_when_it_began(store: Driver) -> None:
    store.note_trouble(Server.POSTGRESQL, Work.BACKUP, "away", keep_ms=KEEP)
    age(store, "postgresql:backup", 5000)
    began = entry(store, "postgresql:backup")["since_ms"]
    store.note_trouble(Server.POSTGRESQL, Work.BACKUP, "starting", keep_ms=KEEP)
    trouble = store.troubles()[Server.POSTGRESQL]
    assert (trouble.error, trouble.since_ms) == ("starting", began)
    assert trouble.last_ms >= began + 5000


def test_of_several_kinds_of_work_the_first_says_since_when_and_the_last_why(
    store: Driver,
) -> None:
    for work, error in ((Work.SWEEP, "old"), (Work.RESTORE, "new")):
        store.note_trouble(Server.POSTGRESQL, work, error, keep_ms=KEEP)
    age(store, "postgresql:sweep", 9000)
    trouble = store.troubles()[Server.POSTGRESQL]
    assert trouble.works == {"restore", "sweep"}
    assert trouble.error == "new"
    assert trouble.last_ms - trouble.since_ms >= 9000


def test_a_success_ends_the_notes_of_its_own_kind_alone(store: Driver) -> None:
    store.note_trouble(Server.POSTGRESQL, Work.BACKUP, "disk full", keep_ms=KEEP)
    store.note_trouble(Server.REDIS, Work.BACKUP, "full", keep_ms=KEEP)
    store.note_trouble(Server.POSTGRESQL, Work.SWEEP, "away", keep_ms=KEEP)
    assert store.end_troubles(Work.BACKUP) is True
    assert store.end_troubles(Work.BACKUP) is False
    ((server, trouble),) = store.troubles().items()
    assert (server, trouble.works) == ("postgresql", {"sweep"})


def test_a_note_without_news_has_ended(store: Driver) -> None:
    store.note_trouble(Server.BROKER, Work.SWEEP, "away", keep_ms=KEEP)
    assert 0 < store.raw.pttl(store.keys.troubles) <= KEEP
    age(store, "broker:sweep", KEEP)
    assert store.troubles() == {}
    store.note_trouble(Server.BROKER, Work.SWEEP, "again", keep_ms=KEEP)
    trouble = store.troubles()[Server.BROKER]
    assert trouble.last_ms == trouble.since_ms


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", "{}"),
        (b"\xff:backup", "{}"),
        ("redis:sweep", "[1]"),
        ("redis:sweep", "zz"),
        ("redis:scrub", f'{{"error":"","since_ms":0,"last_ms":0,"until_ms":{10**17}}}'),
    ],
)
def test_what_others_put_there_is_skipped_and_written_over(
    store: Driver, name: str | bytes, value: str
) -> None:
    store.raw.hset(store.keys.troubles, name, value)
    assert store.troubles() == {}
    store.note_trouble(Server.REDIS, Work.SWEEP, "full", keep_ms=KEEP)
    assert store.troubles()[Server.REDIS].error == "full"


def test_key_of_another_type_is_named(store: Driver) -> None:
    store.raw.set(store.keys.troubles, "x")
    with pytest.raises(CorruptState, match="statesync:trouble"):
        store.troubles()
    with pytest.raises(CorruptState, match="statesync:trouble"):
        store.note_trouble(Server.REDIS, Work.SWEEP, "full", keep_ms=KEEP)
