"""Owns the move of a character to another realm.

Each step is one transaction, and each can be taken up again after a crash: run the move again.

1. **The intent**, in the source. The character is played there as before.
2. **Out of the source's Redis**, saved; and its rows into the target, where nothing restores them.
3. **Moved**, in the source: its row is locked, it is still as it was copied, and Redis gets a
   tombstone above every version if it does not hold it. From then on nothing restores it there,
   however early a restore has read its row.
4. **Active**, in the target.

So no two realms can restore it at any moment. Between 3 and 4 none can: a crash there is the one
that a player notices.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from sqlalchemy import Connection

from statesync import durable
from statesync.durable import database
from statesync.durable.moves import Copy, Move, Step
from statesync.errors import CharacterNotFound, CharacterNotMoved, ServerUnavailable
from statesync.hot.commands.transfer import Presence
from statesync.lifecycle.failpoints import failpoint
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.state.fields import MAX_VERSION, check_char_id

__all__ = ["CharacterMove", "Realm"]

_ROUNDS = 5
"""How often a character is taken out of Redis again that logs in meanwhile."""
_REFUSED = {
    Presence.TIED: "it is tied to others until the next save; `statesync drain`, and run it again",
    Presence.IN_SESSION: "it is in a session; close or leave that first",
    Presence.UNSAVED: "it has unsaved changes and is not loaded; see `statesync pending`",
}


class Realm(NamedTuple):
    """One side of a move."""

    name: str
    orchestrator: GameStateOrchestrator


class CharacterMove:
    """Moves one character from a realm to another one."""

    def __init__(self, source: Realm, target: Realm, char_id: int) -> None:
        self._char_id = check_char_id(char_id)
        self._source, self._target = source, target

    def run(self) -> Move:
        """Move it, or take up a move that was cut off; returns the record of the target.

        Raises CharacterNotFound, CharacterNotMoved, CharacterNotSaved or ServerUnavailable.
        """
        try:
            return self._run()
        except CharacterNotMoved:
            with suppress(database.Rejected, ServerUnavailable):  # then the next refusal does it
                self._end_intent()
            raise

    def _run(self) -> Move:
        try:
            for _ in range(_ROUNDS):
                if moved := self._try():
                    return moved
        except database.Rejected as error:
            raise self._refused(str(error)) from None
        raise self._refused("it logs in, or changes, again and again")

    def _end_intent(self) -> None:
        """End a move that is refused, unless its rows are in the target: it may go elsewhere."""
        with database.transaction(self._target.orchestrator.engine) as connection:
            known = durable.moves.read(connection, self._char_id)
        if known and known == self._at(Step.INACTIVE, known.version):
            return
        with database.transaction(self._source.orchestrator.engine) as connection:
            durable.moves.refuse(connection, self._at(Step.INTENDED))

    def _try(self) -> Move | None:
        """Move it; None if it has changed meanwhile, or another run of its move was faster."""
        begun = self._begin(self._why_not_there())
        if begun.step is Step.MOVED:
            return self._activate(begun.version)
        self._leave_redis()
        if not (copied := self._copy()):
            return None
        self._insert(*copied)
        failpoint("inserted")
        if not self._leave(*copied):
            return None
        failpoint("moved")
        return self._activate(copied[1])

    def _begin(self, reason: str) -> Move:
        """Note the intent, unless there is a reason to refuse it; return the record.

        That may be farther. One that is refused leaves no intent: it would be in the way of others.
        """
        move = self._at(Step.INTENDED)
        with database.transaction(self._source.orchestrator.engine) as connection:
            known = durable.moves.begin(connection, move)
            if known:
                self._check_known(known)
            if known and known.step is Step.MOVED:
                return known
            if reason:
                raise self._refused(reason)
            presence = self._check_presence()
            if durable.moves.is_in_session(connection, self._char_id):
                raise self._refused(_REFUSED[Presence.IN_SESSION])
            is_here = durable.characters.versions(connection, [self._char_id])
            if presence is Presence.ABSENT and not is_here:
                raise CharacterNotFound(self._char_id)
            durable.moves.note(connection, move)
        failpoint("intended")
        return move

    def _why_not_there(self) -> str:
        """Return why the target cannot take it, if it cannot."""
        target = self._target
        if target.orchestrator.hot.presence(self._char_id) is not Presence.ABSENT:
            return self._holds_one()
        with database.transaction(target.orchestrator.engine) as connection:
            has_row = durable.moves.has_row(connection, self._char_id)
            return self._why_not_over(connection) if has_row else ""

    def _why_not_over(self, connection: Connection) -> str:
        """Return why the row that the target has is not to be replaced, if so."""
        known = durable.moves.read(connection, self._char_id)
        if known and known.step is Step.MOVED:  # it has left from there
            return ""
        if known and known == self._at(Step.INACTIVE, known.version):
            return ""
        return f"realm {self._target.name!r} has a character of this id"

    def _check_known(self, known: Move) -> None:
        """Refuse a move that would cross another one."""
        if known.step is Step.INACTIVE:
            raise self._refused(f"its move from realm {known.source!r} is not finished")
        if known.step in (Step.INTENDED, Step.MOVED) and known.target != self._target.name:
            has = "has begun" if known.step is Step.INTENDED else "is done or to be finished"
            raise self._refused(f"its move to realm {known.target!r} {has}")

    def _check_presence(self) -> Presence:
        """Refuse what is tied or in a session."""
        presence = self._source.orchestrator.hot.presence(self._char_id)
        if reason := _REFUSED.get(presence):
            raise self._refused(reason)
        return presence

    def _leave_redis(self) -> None:
        self._check_presence()
        self._source.orchestrator.evict(self._char_id)

    def _copy(self) -> tuple[Copy, int] | None:
        with database.transaction(self._source.orchestrator.engine) as connection:
            rows = durable.moves.copy(connection, self._char_id)
            if rows is None:
                return None
            return rows, durable.characters.versions(connection, [self._char_id])[self._char_id]

    def _insert(self, rows: Copy, version: int) -> None:
        """Insert the rows into the target, inactive, unless another run had newer ones."""
        self._check_absent(self._target.orchestrator.hot.presence(self._char_id))
        try:
            with database.transaction(self._target.orchestrator.engine) as connection:
                had_row = durable.moves.lock_row(connection, self._char_id)
                if had_row and (reason := self._why_not_over(connection)):
                    raise self._refused(reason)
                known = durable.moves.read(connection, self._char_id)
                if known and known.step is Step.INACTIVE and known.version > version:
                    return
                durable.moves.insert_inactive(connection, self._char_id, rows)
                durable.moves.note(connection, self._at(Step.INACTIVE, version))
        except database.Rejected as error:
            raise self._refused(f"realm {self._target.name!r} refuses its rows: {error}") from None

    def _leave(self, rows: Copy, version: int) -> bool:
        """Take it out of the source, if it is still as it was copied and nobody plays it."""
        source = self._source.orchestrator
        with database.transaction(source.engine) as connection:
            if durable.moves.copy(connection, self._char_id) != rows:
                return False
            if durable.moves.is_in_session(connection, self._char_id):
                raise self._refused(_REFUSED[Presence.IN_SESSION])
            # Under the row's lock: PostgreSQL ends a transaction that rests long before the
            # tombstone ends.
            if source.hot.set_tombstone(self._char_id, MAX_VERSION) is not Presence.ABSENT:
                return False
            durable.moves.leave(connection, self._char_id)
            durable.moves.note(connection, self._at(Step.MOVED, version))
        return True

    def _activate(self, version: int) -> Move:
        """Let it be played in the target."""
        active = self._at(Step.ACTIVE, version)
        with database.transaction(self._target.orchestrator.engine) as connection:
            durable.moves.lock_row(connection, self._char_id)
            known = durable.moves.read(connection, self._char_id)
            if known == self._at(Step.INACTIVE, version):
                # In place of that of its own move out of here, if it comes back soon.
                hot = self._target.orchestrator.hot
                self._check_absent(hot.set_tombstone(self._char_id, version))
                durable.moves.activate(connection, self._char_id)
                durable.moves.note(connection, active)
            elif known != active:
                raise self._refused(f"it is in realm {self._target.name!r} no more")
        return active

    def _check_absent(self, presence: Presence) -> None:
        if presence is not Presence.ABSENT:
            raise self._refused(self._holds_one())

    def _holds_one(self) -> str:
        return f"Redis of realm {self._target.name!r} holds a character of this id"

    def _at(self, step: Step, version: int = 0) -> Move:
        return Move(self._char_id, self._source.name, self._target.name, step, version)

    def _refused(self, reason: str) -> CharacterNotMoved:
        return CharacterNotMoved(self._char_id, reason)
