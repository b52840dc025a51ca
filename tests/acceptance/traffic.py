"""A game server as a process of its own, which writes down every change that was accepted.

``python -m tests.acceptance.traffic play|bank|residents SEED FIRST COUNT JOURNAL`` runs until
SIGTERM. It does not write down what it cannot know: the server went away before it answered.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from statesync import GameStore, LoginService, Settings, Together
from statesync.errors import (
    CharacterExists,
    CharacterNotLoaded,
    CharacterNotRestored,
    CharacterNotSaved,
    GroupTooLarge,
    InSession,
    NotDurable,
    PreconditionFailed,
    ServerUnavailable,
    SessionClosed,
    SessionNotFound,
)

GOLD = 100
ITEMS = 2
"""What every character of the bank starts with."""

EXPECTED = (
    CharacterNotSaved,
    PreconditionFailed,
    InSession,
    NotDurable,
    SessionClosed,
    GroupTooLarge,
)


class Player:
    """Both kinds of traffic: the store, the journal, and what a refusal leads to."""

    def __init__(self, seed: int, first: int, count: int, journal: Path) -> None:
        settings = Settings.from_env()
        self.seed = seed
        self.random = random.Random(seed)
        self.numbers = itertools.count(1)
        self.ids = range(first, first + count)
        self.needed: Sequence[int] = self.ids
        self.store = GameStore(settings, durable_seconds=5)
        self.service = LoginService(self.store)
        self.journal = journal.open("a", buffering=1)

    def accepted(self, **change: Any) -> None:
        self.journal.write(json.dumps(change) + "\n")

    def play(self, move: Callable[[], None]) -> None:
        stopped: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
        while not stopped:
            try:
                move()
            except EXPECTED:
                continue
            except (CharacterNotLoaded, CharacterNotRestored, SessionNotFound):
                self.login()
            except ServerUnavailable:
                time.sleep(0.02)
            time.sleep(0.002)
        self.store.close()

    def login(self) -> None:
        """Log in the characters of the move. All of them take a minute over slow connections."""
        for char_id in self.needed:
            try:
                self.service.login(char_id)
            except (ServerUnavailable, CharacterNotLoaded, CharacterNotRestored):
                continue


class Counter(Player):
    """Every character counts; in between it fights, logs out and logs in. One process owns it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.counts = dict.fromkeys(self.ids, 0)
        self.fights: dict[UUID, int] = {}

    def move(self) -> None:
        char_id = self.random.choice(self.ids)
        chance = self.random.random()
        if chance < 0.6:
            self.counts[char_id] += 1
            count = self.counts[char_id]
            self.store.update(char_id, n=count)
            self.accepted(character=char_id, n=count)
        elif chance < 0.8 and self.fights:
            fight = self.random.choice(list(self.fights))
            self.fights[fight] += 1
            entry = self.fights[fight]
            try:
                self.store.update_session("combat", fight, {"turn": str(entry)}, log=[entry])
                self.accepted(fight=str(fight), entry=entry)
            except SessionClosed:
                del self.fights[fight]
        elif chance < 0.88:
            party = self.random.sample(list(self.ids), 3)
            self.fights[self.store.open_session("combat", party, {"turn": "0"})] = 0
        elif chance < 0.92 and self.fights:
            fight = self.random.choice(list(self.fights))
            del self.fights[fight]
            self.store.close_session("combat", fight)
        elif chance < 0.96:
            self.service.logout(char_id)
        else:
            self.service.login(char_id)

    def start(self) -> None:
        for char_id in self.ids:
            self.store.create(char_id, state="exploration", n=0)
        self.play(self.move)


class Trader(Player):
    """Money and items change hands among all characters, which other traders trade with too.

    A character's trail names all its trades, in their order.
    """

    leaving = 0.03
    """How likely a move is a logout."""

    def start(self) -> None:
        # Another player may have logged one out already.
        known = {i: self.service.login(i).character for i in self.ids}
        self.bags = {i: character.sessions["inventory"] for i, character in known.items()}
        self.play(self.move)

    def move(self) -> None:
        giver, taker = self.needed = self.random.sample(self.ids, 2)
        if self.random.random() < self.leaving:
            self.service.logout(giver)
            return
        fields = {i: self.store.get(i).fields for i in (giver, taker)}
        chance = self.random.random()
        trade = self.pay(giver, taker, fields) if chance < 0.5 else self.give(giver, taker)
        if not trade:
            return
        name = f"{self.seed}.{next(self.numbers)}"
        for char_id in (giver, taker):
            trail = fields[char_id]["trail"]
            trade.expect(char_id, trail=trail).update(char_id, trail=f"{trail} {name}")
        durable = self.random.random() < 0.03
        begun = time.monotonic()
        self.store.update_together(trade, durable=durable)
        self.accepted(
            trade=name, sides=[giver, taker], durable=durable, during=[begun, time.monotonic()]
        )

    def pay(self, giver: int, taker: int, fields: Mapping[int, Mapping[str, str]]) -> Together:
        has, gets = (int(fields[i]["gold"]) for i in (giver, taker))
        price = self.random.randint(0, has)
        return (
            Together()
            .expect(giver, gold=has)
            .expect(taker, gold=gets)
            .update(giver, gold=has - price)
            .update(taker, gold=gets + price)
        )

    def items(self, char_id: int) -> list[Any]:
        found: list[Any] = self.store.get_session("inventory", self.bags[char_id]).fields["items"]
        return found

    def give(self, giver: int, taker: int) -> Together | None:
        mine, theirs = self.items(giver), self.items(taker)
        has_both = {item["item_id"] for item in mine} & {item["item_id"] for item in theirs}
        if has_both or not mine:  # both: another master, or an older state, came between the reads
            return None
        item = self.random.choice(mine)
        return (
            Together()
            .expect_session("inventory", self.bags[giver], {"items": mine})
            .expect_session("inventory", self.bags[taker], {"items": theirs})
            .update_session(
                "inventory", self.bags[giver], {"items": [i for i in mine if i != item]}
            )
            .update_session("inventory", self.bags[taker], {"items": [*theirs, item]})
        )


class Resident(Trader):
    """A trader that logs nobody out."""

    leaving = 0.0


def open_bank(store: GameStore, ids: range) -> None:
    """Give every character money and a bag with items."""
    for char_id in ids:
        try:
            store.create(char_id, state="exploration", gold=GOLD, trail="0")
        except CharacterExists:
            continue
        items = [{"item_id": f"{char_id}-{n}", "kind": "coin", "quantity": 1} for n in range(ITEMS)]
        store.open_session("inventory", [char_id], {"items": items})


if __name__ == "__main__":
    session_type, seed, first, count, journal = sys.argv[1:]
    players = {"play": Counter, "bank": Trader, "residents": Resident}
    player: type[Counter | Trader] = players[session_type]
    player(int(seed), int(first), int(count), Path(journal)).start()
