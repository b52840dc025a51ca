"""The protocol holds in every order of its steps, and it needs each of its parts."""

from __future__ import annotations

import pytest

from tests.model.protocol import MUTATIONS, Budget, start
from tests.model.search import search

FINE: dict[str, tuple[int, int, Budget, int]] = {
    "one character": (1, 2, Budget(writes=3, crashes=2, expiries=2), 1),
    "bare writers": (1, 2, Budget(writes=1, bare=2, crashes=1, expiries=1), 1),
    "login and logout": (1, 2, Budget(writes=1, bare=1, crashes=1, expiries=1, evictions=1), 1),
    "trades of two": (2, 2, Budget(trades=2, crashes=1, expiries=1), 1),
    "trades of three": (3, 2, Budget(trades=2, crashes=1), 1),
    "ties that meet": (4, 1, Budget(trades=3), 2),
}
SLOW: dict[str, tuple[int, int, Budget, int]] = {
    "three workers": (1, 3, Budget(writes=3, crashes=2, expiries=2), 1),
    "bare writers": (1, 3, Budget(writes=1, bare=2, crashes=1, expiries=2), 1),
    "login and logout": (1, 2, Budget(writes=2, bare=1, crashes=1, expiries=1, evictions=2), 1),
    "trades and writes": (2, 2, Budget(trades=2, writes=1, crashes=1, expiries=1), 1),
    "trades and logouts": (2, 2, Budget(trades=2, crashes=1, expiries=1, evictions=1), 1),
    "trades, two crashes": (2, 2, Budget(trades=2, crashes=2, expiries=2), 1),
    "trades of three": (3, 2, Budget(trades=2, crashes=1, expiries=1), 1),
    "ties that meet": (4, 2, Budget(trades=3), 2),
    "ties that meet, and a crash": (4, 1, Budget(trades=3, crashes=1), 2),
}
BROKEN = {
    "no fence": (1, Budget(writes=2), "rows_never_go_back"),
    "no bump at the snapshot": (1, Budget(bare=2), "rows_never_go_back"),
    "acknowledge without token": (1, Budget(writes=2), "nothing_is_lost"),
    "unmark after the save": (1, Budget(writes=2), "nothing_is_lost"),
    "no ties": (2, Budget(trades=1), "trades_are_whole"),
    "untie at the snapshot": (2, Budget(trades=1, expiries=1), "trades_are_whole"),
    "untie whatever has been tied since": (2, Budget(trades=2), "trades_are_whole"),
    "drop the whole tie": (3, Budget(trades=2), "trades_are_whole"),
    "forget the smaller tie": (4, Budget(trades=3), "all_settles"),
    "evict without looking at the mark": (1, Budget(bare=1, evictions=1), "nothing_is_lost"),
    "restore over what is live": (1, Budget(writes=1, evictions=1), "play_never_goes_back"),
    "restore from before the eviction": (1, Budget(writes=1, evictions=1), "nothing_is_lost"),
}


@pytest.mark.parametrize("name", FINE)
def test_every_order_is_fine(name: str) -> None:
    found = search(start(*FINE[name]))
    print(name, found)
    assert not found.broken, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_order_is_fine_in_more_states(name: str) -> None:
    found = search(start(*SLOW[name]))
    print(name, found)
    assert not found.broken, str(found)


@pytest.mark.parametrize("wrong", MUTATIONS)
def test_every_part_is_needed(wrong: str) -> None:
    characters, budget, broken = BROKEN[wrong]
    workers, items = (1, 2) if characters == 4 else (2, 1)
    whole = search(start(characters, workers, budget, items))
    assert not whole.broken, str(whole)
    found = search(start(characters, workers, budget, items), wrong)
    print(wrong, found)
    assert found.broken == broken, str(found)


def test_without_ties_four_steps_are_enough() -> None:
    assert len(search(start(2, 2, Budget(trades=1)), "no ties").way) == 4
