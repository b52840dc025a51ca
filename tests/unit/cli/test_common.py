"""What the commands share says in words what has become of characters."""

from __future__ import annotations

from statesync.cli.common import counts_of_backups
from statesync.state.outcomes import BackupOutcome


def test_outcomes_are_told_as_what_they_mean() -> None:
    counts = {BackupOutcome.UNCHANGED: 2, BackupOutcome.CONFLICT: 1, BackupOutcome.SAVED: 15}
    words = "1 set to their rows (conflict), 15 saved, 2 as their rows by now"
    assert counts_of_backups(counts) == words
    assert counts_of_backups({}) == "nothing to do"
