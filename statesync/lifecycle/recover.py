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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from statesync import durable
from statesync.durable import database
from statesync.durable.fence import RowHead
from statesync.durable.servers import NotLive
from statesync.errors import DatabaseWentBack, ServerUnavailable
from statesync.hot.commands.operators import Found
from statesync.hot.commands.servers import Taken
from statesync.hot.store import unwrap
from statesync.lifecycle import servers
from statesync.lifecycle.orchestrator import GameStateOrchestrator
from statesync.lifecycle.scrub import (
    PAGE_KEYS,
    PAUSE_SECONDS,
    Difference,
    differences,
    mark_differences,
)
from statesync.state.fields import MAX_VERSION
from statesync.state.outcomes import BackupOutcome

__all__ = ["RecoveryReport", "SettledPage", "recover", "settle"]

log = logging.getLogger(__name__)

_ROUNDS = 5
"""How many times a recovery by hand begins while something cannot be saved."""
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


@dataclass(slots=True)
class RecoveryReport:
    """What a recovery by hand found and did."""

    characters: int = 0
    sessions: int = 0
    differing: int = 0
    outcomes: Counter[BackupOutcome] = field(default_factory=Counter)
    left: int = 0
    """Could not be saved: their rows were locked, for example."""
    last_loss: dict[str, Any] | None = None
    """Which server went back, and how that was found; None if none ever did."""
    not_live: list[NotLive] = field(default_factory=list)
    """Characters that were evicted at a newer version than PostgreSQL has."""

    def add(self, page: SettledPage) -> None:
        """Add a page."""
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
    for page in _Turn(orchestrator, lease_us).pages():
        if page.is_last:
            return False
        if time.monotonic() > deadline:
            return True
        if not page.outcomes:
            time.sleep(PAUSE_SECONDS)
    return False


def recover(
    orchestrator: GameStateOrchestrator,
    *,
    lease_us: int,
    progress: Callable[[SettledPage], object] = lambda _: None,
) -> RecoveryReport:
    """Find out which server went back, compare everything live with its row, and back it up.

    Waits while another worker is at it. Ends when all that is live is as its rows; or with some
    ``left`` after five rounds. If it is cut off, the next sweep goes on. Raises ServerUnavailable.
    """
    servers.count_sweep(orchestrator.hot, orchestrator.engine)
    report = RecoveryReport()
    rounds = 0
    while rounds < _ROUNDS:
        page = None
        turn = _Turn(orchestrator, lease_us, by_hand=True)
        with suppress(DatabaseWentBack):  # found by a backup: it is noted, so the next one saves
            for page in turn.pages():
                report.add(page)
                progress(page)
        if page and page.is_last and not page.left:
            break
        rounds += turn.is_ours
        time.sleep(_WAIT_SECONDS)
    loss = servers.last_loss(orchestrator.hot, orchestrator.engine)
    if loss:
        report.not_live = durable.servers.not_live_of(loss)
        report.last_loss = loss.details
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
        self.is_ours = False

    def pages(self) -> Iterator[SettledPage]:
        """Settle page by page, until the round ends or the comparison is not ours any more."""
        taken = self.hot.take_comparison(self.token, lease_us=self.lease_us, begins=self.by_hand)
        self.is_ours = taken.is_ours
        if not taken.is_ours:
            return
        stands_at, is_last = taken.stands_at, False
        try:
            while not is_last:
                cursor, since_ms, left = map(int, stands_at.split())
                found, page = self.settle_page(cursor, left, taken)
                after = f"{found.cursor} {since_ms} {0 if page.is_last else page.left}"
                if page.is_last and not page.left:
                    after = ""
                if not self.hot.advance_comparison(
                    self.token, lease_us=self.lease_us, before=stands_at, after=after
                ):
                    return
                stands_at, is_last = after, page.is_last
                yield page
            self.tell_end(left=page.left, is_recovering=taken.is_recovering)
        finally:
            with suppress(ServerUnavailable):  # then the lease ends by itself
                self.hot.release_comparison(self.token)

    def settle_page(self, cursor: int, left: int, taken: Taken) -> tuple[Found, SettledPage]:
        """Compare a page, and save or mark what differs."""
        found = self.hot.scan(cursor, count=PAGE_KEYS)
        differing = differences(self.orchestrator, found)
        outcomes: Counter[BackupOutcome] = Counter()
        know_no_row = [item for item in differing if item.has_row and not _is_saved(item)]
        if taken.is_settling and know_no_row:
            self.hot.note_lost([item.char_id for item in know_no_row])
        to_mark = differing
        if taken.is_recovering or self.by_hand:
            outcomes = self.save([item for item in differing if item not in know_no_row])
            to_mark = know_no_row  # their backup waits until all is compared
        mark_differences(self.hot, to_mark)
        if taken.is_recovering:
            self.hot.count({"saved_again": outcomes[BackupOutcome.SAVED]})
            self.release_evicted(found.evicted)
        left += sum(outcomes[outcome] for outcome in _NOT_YET)
        return found, SettledPage(
            keys=found.keys,
            characters=len(found.char_ids),
            sessions=len(found.sessions),
            differing=len({difference.char_id for difference in differing}),
            outcomes=outcomes,
            left=left,
            is_last=found.cursor == 0,
        )

    def save(self, differing: Sequence[Difference]) -> Counter[BackupOutcome]:
        """Back up what differs, and those that point at a session that does."""
        participants = [difference for difference in differing if difference.session]
        replies = self.hot.run_many(
            [self.hot.commands.peek(difference.char_id) for difference in participants]
        )
        char_ids = [difference.char_id for difference in differing if not difference.session]
        for (char_id, ref, *_), peek in zip(participants, map(unwrap, replies), strict=True):
            if peek and ref and peek.references.get(ref.session_type) == ref.id:
                char_ids.append(char_id)
        return Counter(report.outcome for report in self.orchestrator.backup_many(char_ids))

    def release_evicted(self, evicted: Sequence[int | str]) -> None:
        """Put on record who left at a newer version than PostgreSQL has, and let it be restored.

        Its row is all that there is now. Whoever was deleted is kept out as long as ever.
        """
        char_ids = [item for item in evicted if isinstance(item, int)]
        session_ids = [item for item in evicted if isinstance(item, str)]
        if not evicted:
            return
        heads = self.hot.heads(char_ids, evicted=evicted)
        versions = {i: int(text) for i, text in heads.evicted.items() if text.isdigit()}
        with database.transaction(self.orchestrator.engine) as connection:
            rows: dict[int | str, RowHead] = {}
            rows.update(durable.heads.of_characters(connection, char_ids).items())
            rows.update(durable.heads.of_sessions(connection, session_ids).items())
            behind = [
                item
                for item, version in versions.items()
                if item not in heads.cores and _is_behind(rows.get(item), version)
            ]
            not_live = [
                NotLive(
                    item,
                    evicted_version=None if versions[item] == MAX_VERSION else versions[item],
                    row_version=rows[item].version if item in rows else None,
                )
                for item in behind
                if isinstance(item, int)
            ]
            if not_live:
                durable.servers.add_not_live(connection, self.hot.keys.prefix, not_live)
                log.error("not live, and back at what PostgreSQL has: %s", not_live)
        self.hot.drop_tombstones(
            {i: heads.evicted[i] for i in behind if i in rows and versions[i] != MAX_VERSION}
        )

    def tell_end(self, *, left: int, is_recovering: bool) -> None:
        """Log that a round has ended."""
        if left:
            log.warning("%d characters are not saved again yet: another round follows", left)
        elif is_recovering:
            log.warning("all that is live is in PostgreSQL again: restores go on")


def _is_saved(difference: Difference) -> bool:
    """Return whether a core was ever saved; one that was not knows no row."""
    return difference.head is None or difference.head.saved_version is not None


def _is_behind(row: RowHead | None, evicted_version: int) -> bool:
    """Return whether a row is older than what was evicted; a deletion evicts at the highest."""
    if row is None:
        return evicted_version != MAX_VERSION
    return row.version < evicted_version and not row.is_ended
