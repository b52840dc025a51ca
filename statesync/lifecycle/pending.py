"""Owns the claims of a batch that are not decided yet, and what is reported of those that are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from statesync.errors import CorruptState
from statesync.hot.command import Command
from statesync.hot.commands.backup import RawSnapshot
from statesync.hot.commands.claims import Claim
from statesync.hot.store import HotStore
from statesync.lifecycle.claims import release
from statesync.lifecycle.reports import BackupReport
from statesync.state.fields import printable
from statesync.state.outcomes import BackupOutcome

__all__ = ["Pending"]

log = logging.getLogger(__name__)


class Pending(dict[int, Claim]):
    """The claims on characters that are not decided yet, by character.

    Each report takes its character away; ``reports`` has them.
    """

    def __init__(
        self, hot: HotStore, claims: Sequence[Claim], clean: Collection[int], *, lease_us: int
    ) -> None:
        super().__init__({claim.char_id: claim for claim in claims})
        self.lease_us = lease_us
        self._hot = hot
        self._clean = clean
        self._uncounted = {claim.char_id for claim in claims}
        """Characters asked for whose outcome is not counted yet."""
        self.reports: dict[int, BackupReport] = {}
        self.had_room: set[frozenset[str]] = set()
        """Groups whose seals were cut, by the names of their members."""

    def count(self, observed: Mapping[str, int] | None = None) -> list[Command[None]]:
        """Return what counts the outcomes of characters that are reported and not counted yet.

        What was ``observed`` goes to the histograms.
        """
        reported = self._uncounted & self.reports.keys()
        self._uncounted -= reported
        counted = Counter[str](self.reports[char_id].outcome for char_id in reported)
        return [self._hot.commands.count(counted, observed)] if counted or observed else []

    def report(self, char_id: int, outcome: BackupOutcome, version: int | None = None) -> None:
        """Report a character that is decided."""
        if self.pop(char_id, None):
            self.reports[char_id] = BackupReport(char_id, outcome, version)

    def drop_counted(self, char_ids: Collection[int]) -> None:
        """Drop characters that are decided, counted and reported already."""
        self._uncounted.difference_update(char_ids)
        for char_id in char_ids:
            del self[char_id]

    def report_superseded(self, char_ids: Iterable[int]) -> None:
        """Report characters whose claims have passed to other workers."""
        for char_id in char_ids:
            self.report(char_id, BackupOutcome.SUPERSEDED)

    def report_missing(self, claim: Claim, raw: RawSnapshot) -> None:
        """Report a character whose core is gone; if it was dirty, quarantine it: changes are lost.

        The other characters of the snapshot are saved in the next round.
        """
        char_id = claim.char_id
        self |= raw.claims
        error = "not in Redis: nothing to save"
        if char_id in self._clean:
            self._hot.acknowledge(claim, snapshot_version=0, durable_version=0, at_ms=raw.at_ms)
            self._uncounted.discard(char_id)
        else:
            error = "the character was dirty, but its core is gone from Redis: changes were lost"
            of_line = {"char_id": char_id, "outcome": BackupOutcome.MISSING}
            log.error("character %d: %s", char_id, error, extra=of_line)
            self._hot.quarantine(claim, error=error, field="")
        del self[char_id]
        self.reports[char_id] = BackupReport(char_id, BackupOutcome.MISSING, error=error)

    def give_back(self, char_ids: Iterable[int], error: str | None = None) -> None:
        """Give claims back, so that another worker or a later sweep saves the characters."""
        claims = [self.pop(char_id) for char_id in list(char_ids) if char_id in self]
        release(self._hot, claims)
        self.reports |= {
            claim.char_id: BackupReport(claim.char_id, BackupOutcome.RELEASED, error=error)
            for claim in claims
        }

    def quarantine(self, char_ids: Iterable[int], error: CorruptState) -> None:
        """Quarantine a group whole: a part of it alone was never the state at one instant."""
        for char_id in char_ids:
            claim = self.pop(char_id, None)
            if claim is None:
                continue
            reason = error.reason
            if error.char_id != char_id:
                reason = f"belongs together with character {error.char_id}: {reason}"
            shown = printable(f"{error.field}: {reason}" if error.field else reason)
            outcome = BackupOutcome.QUARANTINED
            of_line = {
                "char_id": char_id,
                "outcome": outcome,
                "field": error.field,
                "error": reason,
            }
            log.error("character %d is quarantined: %s", char_id, shown, extra=of_line)
            self._hot.quarantine(claim, error=reason, field=error.field)
            self.reports[char_id] = BackupReport(
                char_id, BackupOutcome.QUARANTINED, error=reason, field=error.field
            )
