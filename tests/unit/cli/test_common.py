"""What the commands share says in words what has become of characters."""

from __future__ import annotations

import subprocess
import sys

from statesync.cli.common import counts_of_backups
from statesync.state.outcomes import BackupOutcome


def test_outcomes_are_told_as_what_they_mean() -> None:
    counts = {BackupOutcome.UNCHANGED: 2, BackupOutcome.CONFLICT: 1, BackupOutcome.SAVED: 15}
    words = "1 set to their rows (conflict), 15 saved, 2 as their rows by now"
    assert counts_of_backups(counts) == words
    assert counts_of_backups({}) == "nothing"


def test_a_line_of_a_games_own_code_is_escaped_on_the_terminal() -> None:
    code = (
        "import logging\nfrom statesync import cli\n"
        "cli._cli.main = lambda **_: logging.getLogger('game').warning('seen %s', '\\x1b[2J')\n"
        "cli.main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "seen \\x1b[2J\n")
