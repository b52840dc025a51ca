"""Owns the way in and out of the game, for asyncio: log in, log out, change state."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from statesync.errors import InvalidInput
from statesync.game.async_store import AsyncGameStore
from statesync.game.client import LoggedIn
from statesync.hot.fields import gather_fields
from statesync.lifecycle.orchestrator import BackupReport
from statesync.state.characters import FieldValue
from statesync.state.receipts import Receipt

__all__ = ["AsyncLoginService"]


class AsyncLoginService:
    """Logs characters in and out, for asyncio, on the connections of a store; it closes nothing."""

    def __init__(self, store: AsyncGameStore) -> None:
        self._store = store
        self._client = store._client

    async def login(self, char_id: int, /) -> LoggedIn:
        """Restore a character and its sessions if they are absent, and return them.

        Two logins at once end in one state, and a login during a backup or an eviction gets the
        newest. Raises CharacterNotFound, CharacterNotRestored, InvalidCharId, ServerUnavailable, or
        CorruptState if Redis holds what cannot be read.
        """
        return await asyncio.to_thread(self._client.log_in, char_id)

    async def logout(self, char_id: int, /) -> BackupReport | None:
        """Save a character, then delete it from Redis unless it has changed since.

        Its sessions stay for their other participants. Returns None if it was not loaded. Raises
        CharacterNotSaved if it cannot be saved or never stops changing: then it stays; and
        InvalidCharId or ServerUnavailable.
        """
        return await asyncio.to_thread(self._client.log_out, char_id)

    async def change_state(
        self,
        char_id: int,
        new_state: str,
        fields: Mapping[str, FieldValue] | None = None,
        /,
        *,
        durable: bool = False,
        receipt: bool = False,
        **more: FieldValue,
    ) -> Receipt:
        """Write a character's state, and other fields as ``update`` does, and enqueue its backup.

        Returns its new version. With ``durable`` it returns when PostgreSQL has the change, and
        enqueues nothing. Without a broker the change stays marked, and the next sweep saves it.
        Raises what ``update`` raises.
        """
        changes = gather_fields(fields, more)
        if "state" in changes:
            raise InvalidInput("the new state is the second argument; it is no field here")
        changes["state"] = new_state
        with self._client.span("change_state", char_id):
            version = await self._store.update(char_id, changes, durable=durable, receipt=receipt)
            if not durable:
                await asyncio.to_thread(self._client.enqueue_backup, char_id)
        return version
