"""A change with a nonce: the nonce stands with whoever brings the change to PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from statesync import Receipt, Together
from statesync.errors import CorruptState, InvalidInput, PreconditionFailed

if TYPE_CHECKING:
    from tests.conftest import Driver

FIGHT = uuid4()


@pytest.fixture
def game(store: Driver) -> Driver:
    """Characters 1 to 4; 1 and 2 fight."""
    for char_id in range(1, 5):
        store.create(char_id, gold=1)
    store.open_session("combat", [1, 2], {"monsters": []}, session_id=FIGHT)
    return store


def nonces(store: Driver) -> dict[int, list[str]]:
    """The nonces of each character, in order."""
    found = store.raw.hgetall(store.keys.nonces)
    return {int(char_id): text.decode().split() for char_id, text in found.items()}


CHANGES: dict[str, tuple[Callable[..., Any], int | None, set[int]]] = {
    "create": (lambda game, **more: game.create(9, gold=1, **more), 9, {9}),
    "update": (lambda game, **more: game.update(1, gold=2, **more), 1, {1}),
    "delete": (lambda game, **more: game.update(1, gold=None, **more), 1, {1}),
    "mark_dirty": (lambda game, **more: game.mark_dirty(1, **more), 1, {1}),
    "update_session": (
        lambda game, **more: game.update_session("combat", FIGHT, log=["hit"], **more),
        None,
        {1, 2},
    ),
    "join_session": (
        lambda game, **more: game.join_session("combat", FIGHT, 3, **more),
        None,
        {1, 2, 3},
    ),
    "leave_session": (
        lambda game, **more: game.leave_session("combat", FIGHT, 2, **more),
        None,
        {1, 2},
    ),
    "close_session": (
        lambda game, **more: game.close_session("combat", FIGHT, **more),
        None,
        {1, 2},
    ),
    "update_together": (
        lambda game, **more: game.update_together({3: {"gold": 0}}, **more)[3],
        3,
        {3},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_gives_a_receipt(game: Driver, name: str) -> None:
    call, char_id, marked = CHANGES[name]
    receipt = call(game, receipt=True)
    assert isinstance(receipt, Receipt)
    assert receipt.char_id == char_id
    assert receipt.nonce
    assert nonces(game) == {char_id: [receipt.nonce] for char_id in marked}


@pytest.mark.parametrize("name", CHANGES)
def test_unasked_it_has_no_nonce(game: Driver, name: str) -> None:
    call, char_id, _ = CHANGES[name]
    receipt = call(game)
    assert isinstance(receipt, Receipt)
    assert (receipt.char_id, receipt.nonce) == (char_id, None)
    assert nonces(game) == {}


def test_the_cost_of_an_update_is_what_it_was(game: Driver) -> None:
    plain = game.store.commands.update(1, gold=2)
    assert len(plain.keys) == 3
    assert len(list(plain.args)) == 2
    assert len(game.store.commands.update(1, gold=2, receipt=True).keys) == 4


def test_the_nonces_of_one_character_stand_in_order(game: Driver) -> None:
    given = [game.update(1, gold=gold, receipt=True).nonce for gold in range(3)]
    assert nonces(game) == {1: given}


def test_a_trade_is_one_change(game: Driver) -> None:
    trade = Together().expect(4, gold=1).update(1, gold=0).update(3, gold=2)
    receipts = game.update_together(trade, receipt=True)
    assert set(receipts) == {1, 3}
    assert receipts[1].nonce == receipts[3].nonce
    assert [receipt.char_id for receipt in receipts.values()] == [1, 3]
    assert nonces(game) == {1: [receipts[1].nonce], 3: [receipts[1].nonce]}


def test_a_trade_that_needs_more_keys_keeps_its_nonce(game: Driver) -> None:
    game.update_together({3: {}, 4: {}})
    trade = Together().update(3, gold=0).update_session("combat", FIGHT, {"turn_order": [1]})
    receipt = game.update_together(trade, receipt=True)[3]
    assert nonces(game) == {char_id: [receipt.nonce] for char_id in (1, 2, 3)}


def test_a_trade_that_is_answered_again_adds_nothing(game: Driver) -> None:
    command = game.store.commands.update_together({3: {"gold": 0}, 4: {"gold": 2}}, receipt=True)
    first, second, third = game.run_many([command, command, command])  # the first needs no more
    receipt = second[3]
    assert first == second == third
    assert nonces(game) == {3: [receipt.nonce], 4: [receipt.nonce]}


def test_a_mark_that_is_sent_again_adds_nothing(game: Driver) -> None:
    command = game.store.commands.mark_dirty(1, receipt=True)
    first, _ = game.run_many([command, command])
    assert nonces(game) == {1: [first.nonce]}


def test_what_is_refused_leaves_no_nonce(game: Driver) -> None:
    with pytest.raises(PreconditionFailed):
        game.update_together(Together().expect(1, gold=9).update(1, gold=2), receipt=True)
    game.raw.hset(game.keys.core(1), "version", "x")
    with pytest.raises(CorruptState):
        game.update(1, gold=2, receipt=True)
    assert nonces(game) == {}


def test_only_who_brings_the_session_along_has_its_nonce(game: Driver) -> None:
    # A bare writer has taken 2 out: what 2 saves says nothing of the fight.
    game.raw.hdel(game.keys.core(2), "combat_session_id")
    receipt = game.update_session("combat", FIGHT, log=["hit"], receipt=True)
    assert nonces(game) == {1: [receipt.nonce]}
    receipt = game.join_session("combat", FIGHT, 3, receipt=True)
    assert receipt.nonce in nonces(game)[3]
    assert 2 not in nonces(game)
    game.leave_session("combat", FIGHT, 2, receipt=True)
    assert 2 not in nonces(game)


def test_who_is_tied_to_the_session_has_its_nonce(game: Driver) -> None:
    game.raw.hdel(game.keys.core(2), "combat_session_id")
    trade = Together().update(3, gold=0).update_session("combat", FIGHT, {"turn_order": [1]})
    receipt = game.update_together(trade, receipt=True)[3]
    assert nonces(game) == {char_id: [receipt.nonce] for char_id in (1, 2, 3)}


def test_what_was_done_before_can_be_waited_for(game: Driver) -> None:
    game.leave_session("combat", FIGHT, 2)
    left = game.leave_session("combat", FIGHT, 2, receipt=True)
    assert nonces(game) == {char_id: [left.nonce] for char_id in (1, 2)}
    game.close_session("combat", FIGHT)
    closed = game.close_session("combat", FIGHT, receipt=True)
    assert nonces(game)[1] == [left.nonce, closed.nonce]
    gone = game.leave_session("combat", FIGHT, 1, receipt=True)
    assert nonces(game)[1] == [left.nonce, closed.nonce, gone.nonce]


def test_receipt_is_an_option(game: Driver) -> None:
    with pytest.raises(InvalidInput, match=r'receipt is an option.*\{"receipt": …\}'):
        game.update(1, receipt="of a shop")
    game.update(1, {"receipt": "of a shop"})
    assert game.get(1).fields["receipt"] == "of a shop"


@pytest.mark.parametrize("name", CHANGES)
def test_a_key_of_another_type_is_named_and_nothing_is_written(game: Driver, name: str) -> None:
    before = game.store.commands.get_full_state(1)
    game.raw.set(game.keys.nonces, "x")
    with pytest.raises(CorruptState, match="statesync:nonces"):
        CHANGES[name][0](game, receipt=True)
    assert game.run_many([before]) == game.run_many([before])
    assert game.get(1).version == 2
    assert not game.raw.exists(game.keys.core(9))
