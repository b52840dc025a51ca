"""A wait for what is unsaved outlives a Redis that is away for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from statesync.cli.pending import _wait
from statesync.cli.turns import Turn, begun
from statesync.errors import RedisUnavailable
from statesync.hot.commands.operators import PendingList
from statesync.settings import Settings

DIRTY, CLEAN = PendingList(1, 0, 0, []), PendingList(0, 0, 0, [])
AWAY = RedisUnavailable("Redis is away")


def looks(*answers: PendingList | RedisUnavailable) -> Callable[[], PendingList]:
    """Return what gives or raises one answer after the other, and then the last one again."""

    def endless() -> Iterator[PendingList | RedisUnavailable]:
        yield from answers
        while True:
            yield answers[-1]

    each = endless()

    def look() -> PendingList:
        answer = next(each)
        if isinstance(answer, RedisUnavailable):
            raise answer
        return answer

    return look


def test_redis_that_is_away_for_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    assert _wait(looks(DIRTY, AWAY, CLEAN), None, 1000) == CLEAN
    assert capsys.readouterr().err == "statesync: waiting: 1 dirty, 0 claimed\n"


@pytest.mark.parametrize("answers", [[AWAY], [DIRTY, AWAY]])
def test_redis_that_is_away_at_first_or_at_the_end(answers: list[PendingList]) -> None:
    with pytest.raises(RedisUnavailable):
        _wait(looks(*answers), None, 0.1)


def test_realms_share_the_time() -> None:
    each = Settings(realms="eu,us", database_url="postgresql:///{realm}").each_realm()
    first, second = Turn(each[0], each), Turn(each[1], each)
    second.shared = first.shared
    with begun(first):
        assert _wait(looks(DIRTY), None, 0.1) == DIRTY
    deadline = first.shared["deadline"]
    with begun(second):
        assert _wait(looks(DIRTY), None, 1000) == DIRTY
    assert second.shared["deadline"] == deadline
