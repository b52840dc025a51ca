"""Any sequence of what a game, its players, workers and operators do, beside a model in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

import statesync.lifecycle.orchestrator
from statesync import GameStateOrchestrator, Settings, Together
from statesync.errors import (
    CharacterExists,
    CharacterNotLoaded,
    CharacterNotSaved,
    InSession,
    LeaseLost,
    PreconditionFailed,
    SessionClosed,
    SessionNotFound,
    SessionNotLoaded,
)

IDS = st.integers(1, 4)
VALUES = st.integers(0, 99)
KINDS = st.sampled_from(["combat", "inventory", "scenario"])
OPENED: dict[str, dict[str, Any]] = {"combat": {}, "inventory": {}, "scenario": {"quest_id": "q"}}

_worlds = itertools.count(1)


@dataclass
class Opened:
    """What the model knows of a session."""

    session_type: str
    members: list[int]
    turn: str = "0"
    log: list[int] = field(default_factory=list)
    open: bool = True


class AnyGame(RuleBasedStateMachine):
    """Four characters, their sessions, and everything that may happen to them."""

    base: Settings

    def __init__(self) -> None:
        super().__init__()
        self.settings = replace(self.base, key_prefix=f"w{next(_worlds)}:")
        self.game = GameStateOrchestrator.from_settings(self.settings)
        self.hot = self.game.hot
        self.raw = redis.Redis.from_url(self.settings.redis_url)
        self.gold: dict[int, str] = {}
        self.sessions: dict[UUID, Opened] = {}

    @initialize()
    def empty(self) -> None:
        with self.game.engine.begin() as connection:
            connection.execute(text("TRUNCATE characters, sessions, state_conflicts CASCADE"))

    def loaded(self) -> set[int]:
        return {i for i in self.gold if self.raw.exists(self.hot.keys.core(i))}

    # The game

    @rule(i=IDS, value=VALUES)
    def create(self, i: int, value: int) -> None:
        if i in self.gold:
            if i in self.loaded():
                with pytest.raises(CharacterExists):
                    self.hot.create(i, gold=value)
            return
        self.hot.create(i, state="exploration", gold=value)
        self.gold[i] = str(value)

    @rule(i=IDS, value=VALUES)
    def update(self, i: int, value: int) -> None:
        if i not in self.loaded():
            with pytest.raises(CharacterNotLoaded):
                self.hot.update(i, gold=value)
            return
        self.hot.update(i, gold=value)
        self.gold[i] = str(value)

    @rule(i=IDS, value=VALUES)
    def write_bare(self, i: int, value: int) -> None:
        if i in self.loaded():
            with self.raw.pipeline(transaction=True) as pipe:
                pipe.hset(self.hot.keys.core(i), "gold", value)
                pipe.sadd(self.hot.keys.dirty, i)
                pipe.execute()
            self.gold[i] = str(value)

    @rule(giver=IDS, taker=IDS, knows=st.booleans())
    def trade(self, giver: int, taker: int, *, knows: bool) -> None:
        if giver == taker or not {giver, taker} <= self.loaded():
            return
        has, gets = self.gold[giver], self.gold[taker]
        trade = Together().expect(giver, gold=has if knows else f"{has}0")
        trade.update(giver, gold=gets).update(taker, gold=has)
        if not knows:
            with pytest.raises(PreconditionFailed):
                self.hot.update_together(trade)
            return
        self.hot.update_together(trade)
        self.gold |= {giver: gets, taker: has}

    # Sessions

    @rule(session_type=KINDS, members=st.lists(IDS, min_size=1, max_size=3, unique=True))
    def open(self, session_type: str, members: list[int]) -> None:
        try:
            session = self.hot.open_session(
                session_type, members, OPENED[session_type] | {"turn": "0"}
            )
        except (CharacterNotLoaded, InSession):
            return
        self.sessions[session] = Opened(session_type, members)

    def change(self, which: int, what: Callable[[UUID, Opened], Any]) -> bool:
        """Change one of the sessions; False if that is refused."""
        if not self.sessions:
            return False
        session = sorted(self.sessions)[which % len(self.sessions)]
        known = self.sessions[session]
        try:
            what(session, known)
        except SessionClosed:
            assert not known.open
        except (SessionNotFound, SessionNotLoaded):
            assert not known.open or not set(known.members) & self.loaded()
        except (CharacterNotLoaded, InSession):
            pass
        else:
            return True
        return False

    @rule(which=VALUES, turn=VALUES)
    def take_a_turn(self, which: int, turn: int) -> None:
        def what(session: UUID, known: Opened) -> None:
            entries = [turn] if known.session_type == "combat" else []
            self.hot.update_session(known.session_type, session, {"turn": str(turn)}, log=entries)
            known.turn = str(turn)
            known.log += entries

        self.change(which, what)

    @rule(which=VALUES, i=IDS)
    def join(self, which: int, i: int) -> None:
        def what(session: UUID, known: Opened) -> None:
            self.hot.join_session(known.session_type, session, i)
            known.members = list(dict.fromkeys([*known.members, i]))

        self.change(which, what)

    @rule(which=VALUES, i=IDS)
    def leave(self, which: int, i: int) -> None:
        def what(session: UUID, known: Opened) -> None:
            if known.open and i in self.gold:
                self.hot.leave_session(known.session_type, session, i)
                if known.members == [i]:
                    known.open = False
                elif i in known.members:
                    known.members.remove(i)

        self.change(which, what)

    @rule(which=VALUES)
    def close(self, which: int) -> None:
        def what(session: UUID, known: Opened) -> None:
            self.hot.close_session(known.session_type, session)
            known.open = False

        self.change(which, what)

    # Workers, players, and what goes wrong

    @rule(i=IDS)
    def backup(self, i: int) -> None:
        assert self.game.backup_full_state(i).outcome in ("saved", "unchanged", "missing")

    @rule(lost=st.booleans())
    def sweep(self, *, lost: bool) -> None:
        claims = self.hot.claim_dirty(
            lease_us=self.settings.lease_us,
            max_in_flight=1000,
            count=100,
            round_ms=60_000,
            whole=True,
        ).claims
        if not lost:  # else the worker died at once
            outcomes = {report.outcome for report in self.game.backup_claims(claims)}
            assert outcomes <= {"saved", "unchanged"}

    @rule(i=IDS)
    def die_after_the_snapshot(self, i: int) -> None:
        if i in self.loaded():
            claim, _ = self.hot.claim(i, lease_us=self.settings.lease_us)
            self.hot.snapshot(claim)

    @rule(i=IDS)
    def lose_a_claim(self, i: int) -> None:
        if i in self.loaded():
            mine, _ = self.hot.claim(i, lease_us=self.settings.lease_us)
            self.hot.claim(i, lease_us=self.settings.lease_us)
            with pytest.raises(LeaseLost):
                self.hot.snapshot(mine)

    @rule()
    def leases_end(self) -> None:
        for name, _ in self.raw.zscan_iter(self.hot.keys.claimed):
            self.raw.zadd(self.hot.keys.claimed, {name: 1})
        self.hot.requeue(100)

    @rule(i=IDS)
    def log_out(self, i: int) -> None:
        try:
            self.game.evict(i)
        except CharacterNotSaved:
            assert self.raw.zcard(self.hot.keys.claimed), "only a claim of the dead is a reason"

    @rule(i=IDS)
    def log_in(self, i: int) -> None:
        outcome = self.game.restore_full_state(i).outcome
        saved_once = i in self.gold
        assert outcome in (("live", "restored") if saved_once else ("not_found",))

    @precondition(lambda self: self.gold)
    @rule()
    def redis_is_wiped_after_all_is_saved(self) -> None:
        self.save_all()
        for key in self.raw.scan_iter(f"{self.hot.keys.prefix}*", count=1000):
            self.raw.delete(key)

    # What must hold

    def save_all(self) -> None:
        for _ in range(5):
            self.leases_end()
            claims = self.hot.claim_dirty(
                lease_us=self.settings.lease_us,
                max_in_flight=1000,
                count=1000,
                round_ms=60_000,
                whole=True,
            ).claims
            self.game.backup_claims(claims)
        status = self.hot.status()
        assert (status.dirty, status.claimed, status.quarantined) == (0, 0, 0)
        assert not self.raw.keys(self.hot.keys.tie("*"))

    @invariant()
    def redis_holds_what_was_played(self) -> None:
        for i in self.loaded():
            assert self.hot.get(i).fields["gold"] == self.gold[i]

    def teardown(self) -> None:
        try:
            self.redis_is_wiped_after_all_is_saved()
            with self.game.engine.connect() as connection:
                found = connection.execute(text("SELECT id, extra->>'gold' FROM characters"))
                assert dict(map(tuple, found)) == self.gold
                query = "SELECT count(*) FROM state_conflicts"
                assert connection.execute(text(query)).scalar() == 0
            self.game.restore_many(self.gold)
            for session, known in self.sessions.items():
                if not known.open:
                    with pytest.raises(SessionNotFound):
                        self.hot.get_session(known.session_type, session)
                    continue
                there = self.hot.get_session(known.session_type, session)
                assert sorted(there.participants) == sorted(known.members)
                assert there.fields["turn"] == known.turn
                assert self.hot.read_log(known.session_type, session) == known.log
        finally:
            for key in self.raw.scan_iter(f"{self.hot.keys.prefix}*", count=1000):
                self.raw.delete(key)
            self.raw.close()
            self.game.close()


def play(base: Settings, monkeypatch: pytest.MonkeyPatch, games: int) -> None:
    monkeypatch.setattr(statesync.lifecycle.orchestrator, "_EVICT_SECONDS", 0.01)
    machine = type("AnyGame", (AnyGame,), {"base": base})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=games,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_any_game(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    play(settings, monkeypatch, 25)


@pytest.mark.slow
def test_many_games(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    play(settings, monkeypatch, 500)
