"""Owns the way from PostgreSQL to Redis: characters and their sessions, if they are absent there.

Most characters are absent, small and in no session: one statement loads them and one script
restores them. The others are peeked at in Redis first.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from sqlalchemy import Engine, Select

from statesync import durable
from statesync.durable import database
from statesync.durable.database import QUICK_SECONDS
from statesync.errors import CorruptState, DatabaseWentBack, StatesyncError
from statesync.hot.command import SCRIPT_MEMBERS, Command, packed
from statesync.hot.commands.transfer import Peek, RestoreResult
from statesync.hot.store import HotStore, unwrap
from statesync.lifecycle.failpoints import failpoint
from statesync.lifecycle.plans import Loaded, Plan, Planner, plan_sessions, stage_logs
from statesync.state.fields import printable, printable_cause
from statesync.state.outcomes import RestoreOutcome, SessionOutcome
from statesync.state.references import SessionRef
from statesync.state.session_types import names
from statesync.state.sessions import read_references

__all__ = ["Restore", "RestoreReport"]

log = logging.getLogger(__name__)

_BATCH_BYTES = 8 * 1024 * 1024
"""About how much is read at once, a second over 100 Mbit/s."""
_MANY = 500
"""At most so many small characters are read at once; each is less than 16 kB."""
_FEW = 8
"""So many characters are read at once whatever their size, which has its own bound."""
_REREAD_ROUNDS = 4
"""How many times rows are read that turn out to be older than what Redis has evicted since."""
_TOO_OLD = (
    "its row is older than what was evicted from Redis in the last ten minutes: PostgreSQL is a "
    "replica that lags, or was set back to a backup (then `statesync recover`), or a deletion was "
    "undone"
)
_READ_TOO_EARLY = "stale"
"""What the script answers for such a row."""


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What became of one character in a restore."""

    char_id: int
    outcome: RestoreOutcome
    """If it is ``failed``, nothing was restored."""
    version: int | None = None
    sessions: dict[str, SessionOutcome] = field(default_factory=dict)
    """By type: what became of each session that the character is in."""
    fallback_from: str | None = None
    """The state it was saved in, if nothing is left of that state's session: it is in the fallback
    state now."""
    error: str | None = None


class _Reports(dict[int, RestoreReport]):
    """Reports by character; ``counted`` are those whose outcome the restore script has counted."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: set[int] = set()

    def undecided(self, ids: Sequence[int]) -> list[int]:
        """Return the characters without a report, and the live ones: a session may be lost."""
        return [i for i in ids if i not in self or self[i].outcome is RestoreOutcome.LIVE]


class Restore:
    """Restores characters and their sessions; safe to share by threads."""

    def __init__(
        self,
        hot: HotStore,
        engine: Engine,
        planner: Planner,
        *,
        batch_size: int,
    ) -> None:
        self._hot = hot
        self._commands = hot.commands
        self._engine = engine
        self._planner = planner
        self._at_once = min(batch_size, _MANY)

    def run(self, ids: Sequence[int], progress: Callable[[int], object]) -> list[RestoreReport]:
        """Restore characters that are absent. Raises ServerUnavailable."""
        reports = _Reports()
        done = 0
        for start in range(0, len(ids), self._at_once):
            batch = ids[start : start + self._at_once]
            self._restore_batch(batch, reports)
            done += len(batch)
            progress(done)
        if uncounted := reports.keys() - reports.counted:
            self._hot.count(Counter(reports[char_id].outcome for char_id in uncounted))
        return [reports[char_id] for char_id in ids]

    def _by_bytes(self, ids: Sequence[int]) -> Iterable[Sequence[int]]:
        """Return a batch in parts of some MiB: PostgreSQL gives each in time, and memory holds it.

        A few characters, such as one that logs in, are not measured.
        """
        if len(ids) <= _FEW:
            return [ids] if ids else []
        with database.statement(self._engine, answer_seconds=QUICK_SECONDS) as connection:
            sizes = durable.sizes.of_characters(connection, ids)
        return packed(ids, lambda char_id: sizes.get(char_id, 0), _BATCH_BYTES)

    def _restore_batch(self, ids: Sequence[int], reports: _Reports) -> None:
        """Restore some characters, in rounds until no row was read too early."""
        pending = ids
        try:
            for _ in range(_REREAD_ROUNDS):
                pending = self._restore_round(pending, reports)
                if not pending:
                    return
        except database.Rejected as error:
            self._isolate(reports.undecided(pending), error, reports)
            return
        reports |= {char_id: _failed(char_id, StatesyncError(_TOO_OLD)) for char_id in pending}

    def _isolate(
        self, undecided: Sequence[int], error: database.Rejected, reports: _Reports
    ) -> None:
        """Restore the two halves of a batch of which a session type cannot load one session.

        So in the end only the character in that session fails.
        """
        if len(undecided) == 1:
            reports[undecided[0]] = _failed(undecided[0], error)
            return
        middle = len(undecided) // 2
        self._restore_batch(undecided[:middle], reports)
        self._restore_batch(undecided[middle:], reports)

    def _restore_round(self, ids: Sequence[int], reports: _Reports) -> list[int]:
        """Restore what can be restored; returns the characters whose rows were read too early."""
        query = _query_for(len(ids))
        with database.statement(self._engine, answer_seconds=QUICK_SECONDS) as connection:
            rows = durable.cores.load(connection, ids, query)
        failpoint("loaded")
        plans = self._plan_all(Loaded(rows), reports)
        too_early = self._send(plans, reports)
        failpoint("restored")
        others = [char_id for char_id in reports.undecided(ids) if char_id not in too_early]
        for part in self._by_bytes(others):
            too_early += self._restore_others(part, reports)
        return too_early

    def _restore_others(self, ids: Sequence[int], reports: _Reports) -> list[int]:
        """Restore large characters, those in sessions, and the lost sessions of live characters.

        Returns the characters whose rows were read too early.
        """
        peeks = self._peek(ids, reports)
        live = {char_id: peek for char_id, peek in peeks.items() if peek}
        lost = self._lost_sessions({i: peek.references for i, peek in live.items()})
        reports |= {i: _live(i, peek, lost.get(i, {})) for i, peek in live.items()}
        absent = [char_id for char_id, peek in peeks.items() if peek is None]
        if not absent and not lost:
            return []
        loaded = self._planner.load(absent, lost)
        not_found = [i for i in absent if i not in loaded.rows]
        if not_found and self._hot.status().recovering:  # its row may be what is lost
            raise DatabaseWentBack
        reports |= {i: RestoreReport(i, RestoreOutcome.NOT_FOUND) for i in not_found}
        plans = self._plan_all(loaded, reports)
        plans |= {i: plan_sessions(refs, loaded, i) for i, refs in lost.items()}
        failpoint("loaded")
        too_early = self._send(plans, reports)
        failpoint("restored")
        return too_early

    def _peek(self, ids: Sequence[int], reports: _Reports) -> dict[int, Peek | None]:
        """Return what live cores say; None for an absent one. Reports a core that is not valid."""
        replies = self._hot.run_many([self._commands.peek(char_id) for char_id in ids])
        peeks: dict[int, Peek | None] = {}
        for char_id, reply in zip(ids, replies, strict=True):
            try:
                peeks[char_id] = _checked(char_id, unwrap(reply))
            except CorruptState as error:
                reports[char_id] = _failed(char_id, error)
        return peeks

    def _lost_sessions(
        self, references: Mapping[int, Mapping[str, str]]
    ) -> dict[int, dict[str, str]]:
        """Return the sessions that live cores point at but that are gone, by character and type."""
        refs = [
            (char_id, SessionRef(*reference))
            for char_id, of_character in references.items()
            for reference in of_character.items()
        ]
        peeks = self._hot.run_many([self._commands.peek_session(*ref) for _, ref in refs])
        lost: dict[int, dict[str, str]] = {}
        for (char_id, ref), peek in zip(refs, peeks, strict=True):
            if not isinstance(peek, CorruptState) and unwrap(peek) < 0:
                lost.setdefault(char_id, {})[ref.session_type] = ref.id
        return lost

    def _plan_all(self, loaded: Loaded, reports: _Reports) -> dict[int, Plan]:
        """Return what characters are to be; report those whose rows cannot be read."""

        def fail(char_id: int, error: CorruptState) -> None:
            reports[char_id] = _failed(char_id, error)

        return self._planner.plan_all(loaded, fail)

    def _send(self, plans: Mapping[int, Plan], reports: _Reports) -> list[int]:
        """Restore what is planned and report it; returns those whose rows were read too early."""
        items = [plan.item for plan in plans.values()]
        staging = stage_logs(self._commands, plans.values())
        scripts = packed(items, lambda item: 1 + len(item.sessions), SCRIPT_MEMBERS)
        commands: list[Command[Any]] = [*staging, *map(self._commands.restore, scripts)]
        replies = self._hot.run_many(commands)[len(staging) :]
        results = chain.from_iterable(map(unwrap, replies))
        too_early = []
        for (char_id, plan), result in zip(plans.items(), results, strict=True):
            if isinstance(result, StatesyncError):
                reports[char_id] = _failed(char_id, result)
            elif result[0] == _READ_TOO_EARLY:
                too_early.append(char_id)
            else:
                self._report(char_id, plan, result, reports)
        return too_early

    def _report(self, char_id: int, plan: Plan, result: RestoreResult, reports: _Reports) -> None:
        """Report what the script answered: for the core, and for each session of the plan."""
        (outcome_text, session_outcomes), (item, ended, fallback_from) = result, plan
        sessions: dict[str, SessionOutcome] = {}
        for session, session_outcome in zip(item.sessions.values(), session_outcomes, strict=True):
            if session_outcome is not SessionOutcome.LEFT:
                sessions[session.session_type] = session_outcome
        if item.version is None:
            before = reports[char_id]
            reports[char_id] = replace(before, sessions=before.sessions | sessions)
            return
        outcome = RestoreOutcome(outcome_text)
        reports.counted.add(char_id)
        sessions |= dict.fromkeys(ended, SessionOutcome.ENDED)
        if outcome is not RestoreOutcome.RESTORED:
            fallback_from = None
        reports[char_id] = RestoreReport(char_id, outcome, item.version, sessions, fallback_from)


def _query_for(count: int) -> Select[Any]:
    """Return the query for the rows of so many characters, those that most restores find."""
    if count == 1:
        return durable.characters.LOAD_ONE_ALONE
    return durable.characters.LOAD_ALONE if count <= _FEW else durable.cores.SMALL_ALONE


def _checked(char_id: int, peek: Peek | None) -> Peek | None:
    """Return what a core says.

    Raises CorruptState if it is no hash, or points at something that is no session.
    """
    if peek:
        if not peek.is_hash:
            raise CorruptState(char_id, "(key)", "the key is not of the type that it must be")
        references = [peek.references.get(session_type, "") for session_type in names()]
        read_references(char_id, [text.encode() for text in references])
    return peek


def _live(char_id: int, peek: Peek, lost: Mapping[str, object]) -> RestoreReport:
    sessions = {
        session_type: SessionOutcome.ENDED if session_type in lost else SessionOutcome.LIVE
        for session_type in peek.references
    }
    return RestoreReport(char_id, RestoreOutcome.LIVE, peek.version, sessions)


def _failed(char_id: int, error: Exception) -> RestoreReport:
    cause = printable_cause(error)
    outcome = RestoreOutcome.FAILED
    of_line = {"char_id": char_id, "outcome": outcome, "error": str(error)}
    shown = printable(error)
    log.error("character %d is not restored: %s%s", char_id, shown, cause, extra=of_line)
    return RestoreReport(char_id, outcome, error=str(error))
