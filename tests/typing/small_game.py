"""A small game as a game's own code is written; two type checkers read it, and nothing runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_type
from uuid import UUID

from sqlalchemy import Connection

from statesync import (
    AsyncGameStore,
    AsyncLoginService,
    BackupOutcome,
    Character,
    GameStore,
    LoggedIn,
    LoginService,
    Receipt,
    RestoreOutcome,
    Reverted,
    Session,
    SessionOrchestrator,
    Settings,
    Together,
    errors,
    register,
)


class Hall:
    """The game server's world, on threads."""

    def __init__(self, settings: Settings) -> None:
        self.store = GameStore(settings, durable_seconds=5.0)
        self.service = LoginService(self.store)

    def enter(self, char_id: int) -> str:
        try:
            character, sessions, report = self.service.login(char_id)
        except errors.CharacterNotFound:
            self.store.create(char_id, {"state": "town"}, gold=100, durable=True)
            character, sessions, report = self.service.login(char_id)
        assert_type(character, Character)
        assert_type(sessions, dict[str, Session])
        if report.outcome is RestoreOutcome.RESTORED and "combat" in sessions:
            return f"{character.char_id} fights on: {sessions['combat'].fields['monsters']}"
        return f"welcome, {(character.bio or {}).get('name', 'stranger')}"

    def leave(self, char_id: int) -> bool:
        report = self.service.logout(char_id)
        return report is not None and report.outcome is BackupOutcome.SAVED

    def fight(self, party: Sequence[int]) -> UUID:
        fight = self.store.open_session("combat", party, {"monsters": [{"hp": 30}]}, state="combat")
        version = self.store.update_session("combat", fight, {"monsters": []}, log=[{"hit": 30}])
        assert_type(version, Receipt)
        self.store.close_session("combat", fight, {"result": "won"})
        for char_id in party:
            self.service.change_state(char_id, "town", {"durable": 3}, wins=1)
        return fight

    def buy(self, buyer: int, seller: int, *, gold: int) -> bool:
        trade = Together().expect(buyer, gold=gold).update(buyer, gold=0)
        trade.expect(seller, {"gold": None}).update(seller, {"gold": gold}, state="rich")
        try:
            versions = self.store.update_together(trade, durable=True)
        except (errors.PreconditionFailed, errors.NotDurable):
            return False
        assert_type(versions, dict[int, Receipt])
        return bool(self.store.is_durable(buyer, versions[buyer]))

    def round(self, char_id: int, fight: UUID) -> str:
        moved, character, session = self.store.run_many(
            [
                self.store.commands.update(char_id, {"location": {"current": "pit", "prev": None}}),
                self.store.commands.get(char_id),
                self.store.commands.get_session("combat", fight),
            ]
        )
        for result in (moved, character, session):
            if isinstance(result, errors.StatesyncError):
                raise result
        assert isinstance(character, Character)
        return str(character.fields.get("gold", "no gold"))

    def follow_reverts(self) -> None:
        for reverted in self.store.reverts():
            assert_type(reverted, Reverted)
            self.forget(reverted.char_ids)

    def forget(self, char_ids: Sequence[int]) -> None:
        for char_id in char_ids:
            receipt = self.store.mark_dirty(char_id, receipt=True)
            assert_type(receipt.nonce, str | None)
            self.store.wait_durable(char_id, Receipt(receipt, char_id, receipt.nonce))


async def follow_reverts(store: AsyncGameStore) -> list[int]:
    return [len(reverted.sessions) async for reverted in store.reverts()]


async def play(settings: Settings, char_id: int) -> int:
    async with AsyncGameStore(settings) as store:
        service = AsyncLoginService(store)
        logged_in = await service.login(char_id)
        assert_type(logged_in, LoggedIn)
        version = await store.update(char_id, {"version": "x"}, gold=5, guild=None, durable=True)
        results = await store.run_many(
            [store.commands.mark_dirty(char_id), store.commands.get(char_id)]
        )
        refused = [result for result in results if isinstance(result, errors.StatesyncError)]
        await store.wait_durable(char_id, version, timeout=1.5)
        await service.change_state(char_id, "town")
        return len(refused)


@register
class FishingTrip(SessionOrchestrator):
    """A session type of the game's own."""

    session_type = "fishing"
    states = ("fishing",)
    json_fields = ("catch",)

    def save(self, connection: Connection, snapshots: Sequence[Session]) -> None:
        for trip in snapshots:
            connection.exec_driver_sql("SELECT %s", (len(trip.fields),))

    def load(self, connection: Connection, char_ids: Sequence[int]) -> dict[int, Session]:
        return self.open_sessions(connection, char_ids)
