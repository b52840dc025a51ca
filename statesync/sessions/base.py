"""Owns what a session type provides: its name, its states, ``save`` and ``load``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, cast
from uuid import UUID

from statesync import durable
from statesync.state.fields import dump_json
from statesync.state.outcomes import BackupOutcome, SessionOutcome
from statesync.state.references import session_uuid
from statesync.state.session_types import names, session_types
from statesync.state.sessions import Session, write_session

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from statesync.durable.memberships import Membership

__all__ = [
    "HeldElsewhere",
    "SessionOrchestrator",
    "SessionReport",
    "check_loaded",
    "make_orchestrators",
    "pass_on",
]


@dataclass(frozen=True, slots=True)
class SessionReport:
    """What became of one session in a backup or a restore."""

    outcome: SessionOutcome | BackupOutcome
    """A BackupOutcome is what kept a participant, and so the session, from being saved."""
    session_id: str | None = None
    error: str | None = None


class HeldElsewhere(NamedTuple):
    """A thing that a session is about to save, and that another character's session holds."""

    char_id: int
    """Whose session is about to be saved."""
    other_id: int
    """Whose session holds it, too."""
    field: str
    thing: str
    """What and where, such as ``item 'sword' is also in the inventory``."""
    is_live: bool
    """Whether a snapshot shows that the other one holds it; if not, PostgreSQL does."""


class Game(Protocol):
    """What an orchestrator of sessions asks of the orchestrator of the game."""

    def backup_sessions(
        self, session_type: str, session_ids: Sequence[str]
    ) -> list[SessionReport]: ...
    def restore_sessions(
        self, session_type: str, char_ids: Sequence[int]
    ) -> list[SessionReport]: ...


class SessionOrchestrator:
    """Base of every session type; a subclass is made once for each GameStateOrchestrator.

    A type is a name, the states that lead to it, and two functions, ``save`` and ``load``. Fields
    that it does not keep elsewhere stay in ``sessions.payload``. When a session is saved, how
    often, at which version and together with what is not its business.
    """

    session_type: ClassVar[str]
    """The name of the type: lower-case letters, digits and ``_``. The core's field is
    ``{session_type}_session_id``, the key of a session ``{session_type}:session:{uuid}``."""
    states: ClassVar[Sequence[str]] = ()
    """A character that is restored in one of these states is restored with such a session."""
    json_fields: ClassVar[Sequence[str]] = ()
    """Fields that hold JSON: ``save`` gets, and ``load`` returns, their values. Others are text."""
    required_fields: ClassVar[Sequence[str]] = ()
    """Fields that ``open_session`` must be given."""
    has_log: ClassVar[bool] = False
    """Whether sessions keep a log, ``{session_type}:session:{uuid}:log``: ``saved_log`` says how
    much of it is saved, ``save`` finds the new entries in ``Session.log``, ``load`` gives all."""

    def __init__(self, game: Game) -> None:
        self._game = game

    @classmethod
    def check(cls, fields: Mapping[str, Any]) -> None:
        """Refuse fields that cannot be saved. Raises InvalidField."""

    @classmethod
    def check_together(cls, changes: Sequence[Mapping[str, Any]]) -> None:
        """Refuse new fields of several sessions, if not all can be saved. Raises InvalidField."""

    def payload(self, session: Session) -> dict[str, Any]:
        """Return what ``sessions.payload`` holds of a session: all its fields."""
        return session.fields

    def save(self, connection: Connection, snapshots: Sequence[Session]) -> None:
        """Write the tables of the type's own, in the transaction of ``connection``.

        ``snapshots`` have changed since they were last saved; their rows in ``sessions`` are
        written and locked. The same snapshot may come twice. An exception keeps all of them from
        being saved.
        """

    def held_elsewhere(
        self,
        connection: Connection,  # noqa: ARG002
        changed: Sequence[Session],  # noqa: ARG002
        others: Sequence[Session],  # noqa: ARG002
    ) -> list[HeldElsewhere]:
        """Return what sessions hold, of which only one can have it, and others hold as well.

        ``changed`` are about to be saved; ``others`` are live and saved already. The characters are
        seen at one instant then: two that both hold it are quarantined; if one does, it is saved.
        """
        return []

    def pass_on(self, connection: Connection, left: Sequence[Membership]) -> None:
        """Pass on what characters kept for open sessions of this type that they have ``left``.

        Called in the transaction that ends their memberships. It saves no snapshot of the sessions,
        which others may still be in.
        """

    def load(self, connection: Connection, char_ids: Sequence[int]) -> dict[int, Session]:
        """Return the open session of each character that has one, as it was last saved."""
        return self.open_sessions(connection, char_ids)

    def saved_log(self, connection: Connection, session_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return how many entries of each session's log PostgreSQL holds; without those of none."""
        raise NotImplementedError(f"{type(self).__name__} keeps a log, so it must say how much")

    def open_sessions(self, connection: Connection, char_ids: Sequence[int]) -> dict[int, Session]:
        """Return the open session of each character that has one, with what its payload holds."""
        return durable.sessions.open_sessions(connection, self.session_type, char_ids)

    def backup_session(self, session_id: UUID | str) -> SessionReport:
        """Save a session now, and with it its participants. Raises as ``backup_sessions`` does."""
        return self.backup_sessions([session_id])[0]

    def backup_sessions(self, session_ids: Iterable[UUID | str]) -> list[SessionReport]:
        """Save sessions now, and with them their participants; report in the order given.

        Raises InvalidInput or ServerUnavailable.
        """
        ids = list(dict.fromkeys(map(session_uuid, session_ids)))
        return self._game.backup_sessions(self.session_type, ids)

    def restore_session(self, char_id: int) -> SessionReport:
        """Restore a character and its session. Raises as ``restore_sessions`` does."""
        return self.restore_sessions([char_id])[0]

    def restore_sessions(self, char_ids: Iterable[int]) -> list[SessionReport]:
        """Restore characters and their sessions, unless they are live; report in the order given.

        Raises InvalidCharId or ServerUnavailable.
        """
        return self._game.restore_sessions(self.session_type, list(char_ids))


def check_loaded(found: object) -> None:
    """Check what the ``load`` of a session type returned. Raises an exception that says why not."""
    if not isinstance(found, Mapping):
        raise TypeError(f"load must return sessions by character, not {type(found).__name__}")
    for session in {id(one): one for one in found.values()}.values():
        if not isinstance(session, Session):
            raise TypeError(f"load must return a Session, not {type(session).__name__}")
        if type(session.version) is not int:
            raise TypeError(f"the version must be an integer, not {session.version!r:.40}")
        write_session(session)
        for entry in session.log:
            dump_json(entry)


def pass_on(
    connection: Connection, types: Mapping[str, SessionOrchestrator], left: Sequence[Membership]
) -> None:
    """Have the types of sessions pass on what characters kept for those that they have ``left``.

    Raises Rejected if a type fails.
    """
    by_type: dict[str, list[Membership]] = defaultdict(list)
    for membership in left:
        by_type[membership.session_type].append(membership)
    for session_type in by_type.keys() & types.keys():
        problem = f"the session type {session_type!r} cannot pass on what was kept for it"
        with durable.database.work_of(problem, connection):
            types[session_type].pass_on(connection, by_type[session_type])


def make_orchestrators(game: Game) -> dict[str, SessionOrchestrator]:
    """Return an orchestrator of each registered session type, always in the same order."""
    classes = cast("Mapping[str, type[SessionOrchestrator]]", session_types())
    return {session_type: classes[session_type](game) for session_type in names()}
