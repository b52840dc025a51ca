"""Owns the store of a game, for asyncio: its operations by name, with their types and docs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar
from uuid import UUID

from statesync.errors import StatesyncError
from statesync.game.client import Client
from statesync.game.group_commit import DURABLE_SECONDS
from statesync.hot.command import Command
from statesync.hot.commands.sessions import FullState
from statesync.hot.commands.together import Together
from statesync.hot.reverts import Reverted
from statesync.hot.store import GameCommands
from statesync.settings import Settings
from statesync.state.characters import Character, FieldValue
from statesync.state.receipts import Receipt
from statesync.state.sessions import Session

__all__ = ["AsyncGameStore"]

T = TypeVar("T")


class AsyncGameStore:
    """What a game works with, for asyncio: characters and sessions in Redis, durable on request.

    One for each process, shared by its tasks. It connects when it is first used; ``aclose``, or
    ``async with``, ends it. Every change is one atomic step, marks its characters dirty, and with
    ``durable=True`` returns when PostgreSQL has it; ``durable_seconds`` bounds that wait. Every
    operation raises RedisUnavailable if Redis is away; a change may then have been made or not.
    """

    def __init__(self, settings: Settings, *, durable_seconds: float = DURABLE_SECONDS) -> None:
        self._client = Client(settings, durable_seconds)
        self._hot = self._client.async_hot()
        self.commands = GameCommands(self._hot.keys)
        """Builds Commands, to be sent together by ``run_many``."""

    # Characters

    async def create(
        self,
        char_id: int,
        fields: Mapping[str, FieldValue] | None = None,
        /,
        *,
        durable: bool = False,
        receipt: bool = False,
        **more: FieldValue,
    ) -> Receipt:
        """Create the core of a new character. Returns its version, 1.

        Takes fields as ``update`` does. Raises CharacterExists, InvalidField, InvalidCharId or
        NotDurable.
        """
        return await self._hot.create(char_id, fields, durable=durable, receipt=receipt, **more)

    async def get(self, char_id: int, /) -> Character:
        """Read a loaded character. Raises CharacterNotLoaded, InvalidCharId or CorruptState."""
        return await self._hot.get(char_id)

    async def get_full_state(self, char_id: int, /) -> FullState:
        """Read a loaded character and its sessions, at one instant.

        Raises CharacterNotLoaded, InvalidCharId or CorruptState.
        """
        return await self._hot.get_full_state(char_id)

    async def update(
        self,
        char_id: int,
        fields: Mapping[str, FieldValue] | None = None,
        /,
        *,
        durable: bool = False,
        receipt: bool = False,
        **more: FieldValue,
    ) -> Receipt:
        """Write fields of a loaded character. Returns its new version.

        ``location``, ``bio``, ``stats`` and ``vitals`` are mappings and replace the whole field;
        ``state`` is a string. Any other name is the game's own field: a string, or a number, which
        is kept as its text; None deletes it. Keywords are fields too; a field that is named like an
        option, such as ``durable``, goes into the mapping. Raises CharacterNotLoaded, InvalidField,
        InvalidCharId or CorruptState, and nothing is written; or NotDurable.
        """
        return await self._hot.update(char_id, fields, durable=durable, receipt=receipt, **more)

    async def mark_dirty(
        self, char_id: int, /, *, durable: bool = False, receipt: bool = False
    ) -> Receipt:
        """Mark a loaded character, so that the next sweep saves it. Returns its new version.

        Raises CharacterNotLoaded, InvalidCharId, CorruptState or NotDurable.
        """
        return await self._hot.mark_dirty(char_id, durable=durable, receipt=receipt)

    async def update_together(
        self,
        changes: Together | Mapping[int, Mapping[str, FieldValue]],
        /,
        *,
        durable: bool = False,
        receipt: bool = False,
    ) -> dict[int, Receipt]:
        """Change several characters and sessions: all of it, or nothing; saved in one transaction.

        ``changes`` is a ``Together``, or fields by character: ``{1: {"gold": 9}, 2: {"gold": 1}}``.
        Returns the new version of each character that is changed. Raises PreconditionFailed if
        something is not as expected, CharacterNotLoaded, SessionNotFound, SessionNotLoaded,
        SessionClosed, GroupTooLarge, InvalidInput or CorruptState, and nothing is written; or
        NotDurable.
        """
        return await self._hot.update_together(changes, durable=durable, receipt=receipt)

    # Sessions

    async def open_session(
        self,
        session_type: str,
        char_ids: Iterable[int],
        fields: Mapping[str, Any],
        core: Mapping[str, FieldValue] | None = None,
        /,
        *,
        session_id: UUID | str | None = None,
        durable: bool = False,
        **more: FieldValue,
    ) -> UUID:
        """Open a session of loaded characters. Returns its id, a new one unless given.

        ``fields`` are the session's own; ``core`` and keywords are written to each participant, as
        ``update`` does, such as ``state="combat"``. Raises CharacterNotLoaded, InSession,
        SessionExists, InvalidSessionType, InvalidField, InvalidCharId or CorruptState, and nothing
        is written; or NotDurable.
        """
        return await self._hot.open_session(
            session_type, char_ids, fields, core, session_id=session_id, durable=durable, **more
        )

    async def update_session(
        self,
        session_type: str,
        session_id: UUID | str,
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        log: Sequence[Any] = (),
        durable: bool = False,
        receipt: bool = False,
    ) -> Receipt:
        """Write fields of a session and append ``log`` entries. Returns its new version.

        Raises SessionNotFound, SessionNotLoaded if no loaded character is in it, SessionClosed,
        InvalidSessionType, InvalidField, InvalidInput or CorruptState, and nothing is written; or
        NotDurable.
        """
        return await self._hot.update_session(
            session_type, session_id, fields, log=log, durable=durable, receipt=receipt
        )

    async def join_session(
        self,
        session_type: str,
        session_id: UUID | str,
        char_id: int,
        /,
        *,
        durable: bool = False,
        receipt: bool = False,
    ) -> Receipt:
        """Take a loaded character into a session. Returns the session's new version.

        Raises CharacterNotLoaded, InSession, and what ``update_session`` raises.
        """
        return await self._hot.join_session(
            session_type, session_id, char_id, durable=durable, receipt=receipt
        )

    async def leave_session(
        self,
        session_type: str,
        session_id: UUID | str,
        char_id: int,
        /,
        *,
        durable: bool = False,
        receipt: bool = False,
    ) -> Receipt:
        """Take a character out of a session; the last one to leave closes it.

        Returns the session's new version. Raises GroupTooLarge, and what ``update_session`` raises;
        of a closed session, nothing.
        """
        return await self._hot.leave_session(
            session_type, session_id, char_id, durable=durable, receipt=receipt
        )

    async def close_session(
        self,
        session_type: str,
        session_id: UUID | str,
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        durable: bool = False,
        receipt: bool = False,
    ) -> Receipt:
        """Close a session, with a last change if given: from now on nothing in it changes.

        The next backup of a participant saves it for good and takes it out of Redis. Returns its
        version. Raises what ``update_session`` raises; a closed session stays as it is.
        """
        return await self._hot.close_session(
            session_type, session_id, fields, durable=durable, receipt=receipt
        )

    async def get_session(self, session_type: str, session_id: UUID | str, /) -> Session:
        """Read a session, without the entries of its log.

        Raises SessionNotFound, InvalidSessionType, InvalidInput or InvalidField.
        """
        return await self._hot.get_session(session_type, session_id)

    async def read_log(
        self, session_type: str, session_id: UUID | str, /, *, start: int = 0, stop: int = -1
    ) -> list[Any]:
        """Read entries ``start`` to ``stop`` of a session's log; both are included, -1 is the last.

        Raises InvalidField if an entry is no JSON, or InvalidInput.
        """
        return await self._hot.read_log(session_type, session_id, start=start, stop=stop)

    # Many, and durable

    async def run_many(self, todo: Sequence[Command[T]]) -> list[T | StatesyncError]:
        """Run Commands in order in one round trip, each atomic by itself.

        A Command that is refused gives its error in its place; the others are not affected. Raises
        RedisUnavailable, after which each may have been run or not.
        """
        return await self._hot.run_many(todo)

    async def is_durable(self, char_id: int, receipt: int, /) -> bool | None:
        """Tell whether PostgreSQL has a change, by what the change returned.

        A Receipt with a nonce, which ``receipt=True`` gives, tells it for this very change. A bare
        version only compares: None means unknown, since a server went back in time within the last
        seven days. So it does for a receipt that is older than that. Raises InvalidCharId,
        DatabaseUnavailable, or InvalidInput if it is no receipt of the character or the store is
        closed.
        """
        return await asyncio.to_thread(self._client.group_commit.is_durable, char_id, receipt)

    async def wait_durable(
        self, char_id: int, receipt: int, /, *, timeout: float | None = None
    ) -> None:
        """Save a change now, by what the change returned; return when PostgreSQL has it.

        ``char_id`` is a character that was changed, or a participant of the session that was.
        ``timeout`` is in seconds. Raises NotDurable, InvalidCharId, or InvalidInput if it is no
        receipt of the character or the store is closed.
        """
        saving = self._client.group_commit.wait_for(char_id, receipt, timeout)
        await asyncio.wrap_future(saving)

    def reverts(self) -> AsyncIterator[Reverted]:
        """Yield what was set to PostgreSQL's state because Redis had gone back in time.

        As it happens, from the first step on, until the store is closed. The game drops what it has
        in memory of these characters and sessions. After an outage of Redis it goes on; what was
        reverted meanwhile is not told. Raises InvalidInput if the store is closed.
        """
        return self._hot.reverts()

    async def aclose(self) -> None:
        """Finish what callers wait for, and close the connections."""
        await asyncio.to_thread(self._client.close)
        await self._hot.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
