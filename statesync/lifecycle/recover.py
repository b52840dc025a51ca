"""Owns how a loss is settled: everything live is compared with its rows, once around.

If Redis went back, or a server has started, what differs is marked, and its backup decides. If
PostgreSQL went back, what differs is saved again at once, and until all of it is, nothing is
restored. One worker does it at a time, page by page. Where it stands is in Redis, so that a sweep
or `statesync recover` goes on where another one ended or died.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

from statesync import durable
from statesync.durable import database
from statesync.durable.fence import RowHead
from statesync.durable.losses import Left, Loss, NotLive
from statesync.errors import DatabaseWentBack, ServerUnavailable
from statesync.hot.commands.operators import Found
from statesync.hot.commands.servers import Heads, Taken
from statesync.hot.store import unwrap
from statesync.lifecycle import servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.reports import BackupReport
from statesync.lifecycle.scrub import (
    PAGE_KEYS,
    PAUSE_SECONDS,
    Difference,
    differences,
    mark_differences,
)
from statesync.state.fields import MAX_VERSION, listed, printable, version_or_none
from statesync.state.outcomes import BackupOutcome

__all__ = ["RecoveryReport", "SettledPage", "recover", "settle"]

log = logging.getLogger(__name__)

_ROUNDS = 5
"""How many times everything live is gone through while something cannot be saved."""
_WAIT_SECONDS = 0.5
"""Between two looks at a comparison that another worker is at."""
_NOT_YET = (BackupOutcome.RELEASED, BackupOutcome.SUPERSEDED)
"""Outcomes after which a character may still not be as its row."""


@dataclass(frozen=True, slots=True)
class SettledPage:
    """What one page contained, and what was done about it."""

    keys: int
    """How many keys Redis has in all."""
    characters: int
    sessions: int
    differing: int
    """Characters that were not as their rows, or whose session was not."""
    outcomes: dict[BackupOutcome, int]
    """Of the characters that were saved again; empty if they were only marked."""
    left: int
    """How many of this round could not be saved so far."""
    is_last: bool
    """Whether the round ends with it."""
    is_end: bool
    """Whether no other round follows: all is saved, or this was the last round."""


@dataclass(slots=True)
class RecoveryReport:
    """What a recovery by hand found and did; the numbers are those of its last round."""

    characters: int = 0
    sessions: int = 0
    differing: int = 0
    outcomes: Counter[BackupOutcome] = field(default_factory=Counter)
    left: int = 0
    """How many could not be saved."""
    not_saved: list[Left] = field(default_factory=list)
    """Who these are, and why: their rows were locked, for example."""
    losses: list[Loss] = field(default_factory=list)
    """Which server went back, how that was found, and what it has cost; the last one first."""

    _is_whole: bool = False

    def add(self, page: SettledPage) -> None:
        """Add a page; the first one of another round begins anew."""
        if self._is_whole:
            self.characters = self.sessions = self.differing = 0
            self.outcomes.clear()
        self._is_whole = page.is_last
        self.characters += page.characters
        self.sessions += page.sessions
        self.differing += page.differing
        self.outcomes.update(page.outcomes)
        self.left = page.left


def settle(orchestrator: GameStateOrchestrator, *, lease_us: int, seconds: float) -> bool:
    """Go on for some seconds with settling a loss; return whether it is worth to go on at once.

    Does nothing if there is none, or another worker is at it. Raises ServerUnavailable.
    """
    deadline = time.monotonic() + seconds
    try:
        for page in _Turn(orchestrator, lease_us).pages():
            if page.is_last:
                return False
            if time.monotonic() > deadline:
                return True
            if not page.outcomes:
                time.sleep(PAUSE_SECONDS)
    except DatabaseWentBack:  # this has found it, and it is noted: from now on it is recovered
        return True
    return False


def recover(
    orchestrator: GameStateOrchestrator,
    *,
    lease_us: int,
    progress: Callable[[SettledPage], object] = lambda _: None,
) -> RecoveryReport:
    """Find out which server went back, compare everything live with its row, and back it up.

    Waits while another worker is at it. Ends when all that is live is as its rows; or, after five
    rounds, without what could not be saved. If it is cut off, the next sweep goes on. Raises
    ServerUnavailable.
    """
    servers.count_sweep(orchestrator.hot, orchestrator.engine)
    report = RecoveryReport()
    while True:
        page = None
        turn = _Turn(orchestrator, lease_us, by_hand=True)
        with suppress(DatabaseWentBack):  # found by a backup: it is noted, so the next one saves
            for page in turn.pages():
                report.add(page)
                progress(page)
        if page and page.is_end:
            report.not_saved = [Left(*item) for item in turn.not_saved.items()]
            break
        time.sleep(_WAIT_SECONDS)
    report.losses = servers.losses(orchestrator.hot, orchestrator.engine)
    return report


class _Turn:
    """One worker at the comparison, for as long as it holds the lease."""

    def __init__(
        self, orchestrator: GameStateOrchestrator, lease_us: int, *, by_hand: bool = False
    ) -> None:
        self.orchestrator = orchestrator
        self.hot = orchestrator.hot
        self.lease_us = lease_us
        self.by_hand = by_hand
        self.token = uuid4().hex
        self.not_saved: dict[int, str] = {}
        """Why characters could not be saved."""

    def pages(self) -> Iterator[SettledPage]:
        """Settle page by page, until the round ends or the comparison is not ours any more."""
        taken = self.take()
        if not taken.is_ours:
            return
        stands_at, is_last = taken.stands_at, False
        try:
            while not is_last:
                cursor, since_ms, left, round_number = map(int, stands_at.split())
                found, page = self.settle_page(cursor, left, taken, round_number)
                after = f"{found.cursor} {since_ms} {page.left} {round_number}"
                if page.is_last:
                    after = f"0 {since_ms} 0 {round_number + 1}"
                if page.is_end and not self.end(stands_at, leaves_some=page.left > 0):
                    return
                if not self.hot.advance_comparison(
                    self.token,
                    lease_us=self.lease_us,
                    before=stands_at,
                    after="" if page.is_end else after,
                ):
                    return
                if page.is_last:
                    self.tell_end(page, is_recovering=taken.is_recovering)
                stands_at, is_last = after, page.is_last
                yield page
        finally:
            with suppress(ServerUnavailable):  # then the lease ends by itself
                self.hot.release_comparison(self.token)

    def take(self) -> Taken:
        """Take the comparison, or renew the lease of ours."""
        return self.hot.take_comparison(self.token, lease_us=self.lease_us, begins=self.by_hand)

    def settle_page(
        self, cursor: int, left: int, taken: Taken, round_number: int
    ) -> tuple[Found, SettledPage]:
        """Compare a page, and save or mark what differs."""
        found = self.hot.scan(cursor, count=PAGE_KEYS)
        differing = differences(self.orchestrator, found)
        reports: list[BackupReport] = []
        know_no_row = [item for item in differing if item.has_row and not _is_saved(item)]
        if taken.is_settling and know_no_row:
            self.hot.note_lost([item.char_id for item in know_no_row])
        to_mark = differing
        if taken.is_recovering or self.by_hand:
            reports = self.save([item for item in differing if item not in know_no_row])
            to_mark = know_no_row  # their backup waits until all is compared
        mark_differences(self.hot, to_mark)
        outcomes = Counter(report.outcome for report in reports)
        not_saved = {r.char_id: _reason(r) for r in reports if r.outcome in _NOT_YET}
        left += len(not_saved.keys() - self.not_saved.keys())
        self.not_saved |= not_saved
        if taken.is_recovering:
            self.note_page(reports, not_saved, outcomes[BackupOutcome.SAVED])
        self.look_at_evicted(found.evicted, is_recovering=taken.is_recovering)
        is_last = found.cursor == 0
        return found, SettledPage(
            keys=found.keys,
            characters=len(found.char_ids),
            sessions=len(found.sessions),
            differing=len({difference.char_id for difference in differing}),
            outcomes=outcomes,
            left=left,
            is_last=is_last,
            is_end=is_last and (not left or round_number >= _ROUNDS),
        )

    def save(self, differing: Sequence[Difference]) -> list[BackupReport]:
        """Back up what differs, and those that point at a session that does."""
        participants = [difference for difference in differing if difference.session]
        replies = self.hot.run_many(
            [self.hot.commands.peek(difference.char_id) for difference in participants]
        )
        char_ids = [difference.char_id for difference in differing if not difference.session]
        for (char_id, ref, *_), peek in zip(participants, map(unwrap, replies), strict=True):
            if peek and ref and peek.references.get(ref.session_type) == ref.id:
                char_ids.append(char_id)
        return self.orchestrator.backup_many(char_ids)

    def note_page(
        self, reports: Sequence[BackupReport], not_saved: Mapping[int, str], saved: int
    ) -> None:
        """Count what was saved again, and put on record who could not be."""
        if not reports:
            return
        self.hot.count({"saved_again": saved})
        with database.transaction(self.orchestrator.engine) as connection:
            durable.losses.note_page(
                connection,
                self.hot.keys.prefix,
                {report.char_id for report in reports},
                [Left(*item) for item in not_saved.items()],
                saved_again=saved,
            )

    def look_at_evicted(self, evicted: Sequence[int | str], *, is_recovering: bool) -> None:
        """Look whether somebody left at a newer version than PostgreSQL has.

        Then that went back, and if nobody knows, it is noted. In a recovery it is put on record,
        and who left may be restored: the row is all that there is now. Whoever was deleted is kept
        out as long as ever. Raises DatabaseWentBack.
        """
        if not evicted:
            return
        char_ids = [item for item in evicted if isinstance(item, int)]
        session_ids = [item for item in evicted if isinstance(item, str)]
        heads = self.hot.heads(char_ids, evicted=evicted)
        read = {i: version_or_none(text) for i, text in heads.evicted.items()}
        versions = {i: version for i, version in read.items() if version is not None}
        rows: dict[int | str, RowHead] = {}
        with database.transaction(self.orchestrator.engine) as connection:
            rows.update(durable.heads.of_characters(connection, char_ids).items())
            rows.update(durable.heads.of_sessions(connection, session_ids).items())
        behind = [
            item
            for item, version in versions.items()
            if not _is_live(heads, item) and _is_behind(rows.get(item), version)
        ]
        lost = [item for item in behind if isinstance(item, int)]
        if is_recovering:
            self.note_not_live(
                NotLive(
                    char_id,
                    evicted_version=None if versions[char_id] == MAX_VERSION else versions[char_id],
                    row_version=rows[char_id].version if char_id in rows else None,
                )
                for char_id in lost
            )
            self.hot.drop_tombstones(
                {i: heads.evicted[i] for i in behind if i in rows and versions[i] != MAX_VERSION}
            )
        elif lost:
            on_record = servers.losses(self.hot, self.orchestrator.engine)
            known = {item.char_id for loss in on_record for item in loss.not_live}
            if not known.issuperset(lost):
                servers.note_postgresql_went_back(self.hot, self.orchestrator.engine, lost)
                raise DatabaseWentBack

    def note_not_live(self, lost: Iterable[NotLive]) -> None:
        """Put on record who left at a newer version than PostgreSQL has."""
        not_live = [*lost]
        if not not_live:
            return
        with database.transaction(self.orchestrator.engine) as connection:
            durable.losses.add_not_live(connection, self.hot.keys.prefix, not_live)
        log.error(
            "characters %s are not live and were newer than PostgreSQL is now: they stay at what "
            "it has",
            listed(sorted(item.char_id for item in not_live)),
        )

    def end(self, stands_at: str, *, leaves_some: bool) -> bool:
        """Put on record that all is settled; False if the comparison is not ours any more.

        PostgreSQL first: if Redis forgets that it was recovered, PostgreSQL still knows.
        """
        taken = self.take()
        if not taken.is_ours or taken.stands_at != stands_at:
            return False
        with database.transaction(self.orchestrator.engine) as connection:
            durable.losses.end_losses(
                connection, self.hot.keys.prefix, datetime.now(UTC), leaves_some=leaves_some
            )
        return True

    def tell_end(self, page: SettledPage, *, is_recovering: bool) -> None:
        """Log that a round has ended."""
        if page.left and page.is_end:
            reasons = [f"{char_id} ({printable(why)})" for char_id, why in self.not_saved.items()]
            log.error(
                "%d characters could not be saved in %d rounds, and restores go on without them: "
                "%s; each is saved once that is possible",
                page.left,
                _ROUNDS,
                listed(reasons),
            )
        elif page.left:
            log.warning("%d characters are not saved again yet: another round follows", page.left)
        elif is_recovering:
            log.warning("all that is live is in PostgreSQL again: restores go on")


def _reason(report: BackupReport) -> str:
    """Return why a character was not saved."""
    return report.error or f"another worker was at it ({report.outcome})"


def _is_live(heads: Heads, char_id: int | str) -> bool:
    """Return whether a character is live; one that was only written to has lost what it was."""
    core = isinstance(char_id, int) and heads.cores.get(char_id)
    return bool(core and core.saved_version is not None)


def _is_saved(difference: Difference) -> bool:
    """Return whether a core was ever saved; one that was not knows no row."""
    return difference.head is None or difference.head.saved_version is not None


def _is_behind(row: RowHead | None, evicted_version: int) -> bool:
    """Return whether a row is older than what was evicted; a deletion evicts at the highest."""
    if row is None:
        return evicted_version != MAX_VERSION
    return row.version < evicted_version and not row.is_ended
