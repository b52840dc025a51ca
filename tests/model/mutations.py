"""Parts of the protocol taken away, each with a small world in which the search finds it."""

from __future__ import annotations

from tests.model.configurations import Configuration
from tests.model.state import Budget

BROKEN: dict[str, tuple[str, Configuration]] = {
    "no fence": ("rows_are_extended", (1, 2, Budget(writes=2, direct=1), {})),
    "no bump at the snapshot": ("all_settles", (1, 2, Budget(bare=2), {})),
    "acknowledge without token": ("nothing_is_lost", (1, 2, Budget(writes=2, direct=1), {})),
    "unmark after the save": ("nothing_is_lost", (1, 2, Budget(writes=2), {})),
    "no ties": ("trades_are_whole", (2, 2, Budget(trades=1), {})),
    "untie at the snapshot": ("trades_are_whole", (2, 2, Budget(trades=1, expiries=1), {})),
    "untie whatever has been tied since": ("trades_are_whole", (2, 2, Budget(trades=2), {})),
    "drop the whole tie": ("trades_are_whole", (3, 2, Budget(trades=2), {})),
    "forget the smaller tie": ("all_settles", (4, 1, Budget(trades=3), {"items": 2})),
    "evict without looking at the mark": (
        "nothing_vanishes",
        (1, 2, Budget(bare=1, evictions=1), {}),
    ),
    "restore over what is live": ("nothing_vanishes", (1, 2, Budget(writes=1, evictions=1), {})),
    "restore from before the eviction": (
        "play_never_goes_back",
        (1, 2, Budget(writes=1, evictions=1), {}),
    ),
    "only compare numbers": ("rows_are_extended", (1, 1, Budget(writes=2, redis=1), {})),
    "the live side wins": ("rows_are_extended", (1, 1, Budget(writes=2, redis=1), {})),
    "revert only the one that was found": ("all_settles", (2, 1, Budget(trades=2, redis=1), {})),
    "keep only the last seal": (
        "no_false_alarm",
        (1, 2, Budget(writes=2, crashes=2, expiries=2), {}),
    ),
    "drop the seals at the snapshot": (
        "no_false_alarm",
        (1, 2, Budget(writes=1, crashes=1, expiries=1), {}),
    ),
    "withdraw at a commit in doubt": (
        "no_false_alarm",
        (1, 2, Budget(writes=2, expiries=1, doubts=1), {}),
    ),
    "revert without tokens": ("no_false_alarm", (1, 2, Budget(writes=2, expiries=1), {})),
    "adopt what was forgotten": ("rows_are_extended", (1, 1, Budget(writes=2, redis=1), {})),
    "just cut a full list": (
        "no_false_alarm",
        (1, 2, Budget(writes=2, crashes=2, expiries=2, direct=1), {"max_seals": 2}),
    ),
    "reseal with the oldest": (
        "no_false_alarm",
        (1, 2, Budget(writes=2, crashes=2, expiries=2, direct=1), {"max_seals": 2}),
    ),
    "cut without a reseal": (
        "no_false_alarm",
        (1, 2, Budget(writes=2, crashes=2, expiries=2, direct=1), {"max_seals": 2}),
    ),
    "withdraw without claim": (
        "no_false_alarm",
        (1, 2, Budget(writes=2, crashes=2, expiries=2, direct=1), {"max_seals": 2}),
    ),
    "own seal whatever its version": (
        "receipts_are_true",
        (1, 2, Budget(durable=1, crashes=1, expiries=2), {"max_seals": 2}),
    ),
    "no note of a deletion": ("no_false_alarm", (1, 2, Budget(writes=1, deletions=1), {})),
    "a deletion leaves the claim": ("no_false_alarm", (1, 2, Budget(writes=1, deletions=1), {})),
    "lay stumps unchecked": ("rows_are_extended", (1, 1, Budget(bare=2, redis=1), {"absent": 1})),
    "lay stumps while settling": (
        "rows_are_extended",
        (1, 1, Budget(bare=2, redis=1), {"absent": 1}),
    ),
    "no note of what was lost": (
        "rows_are_extended",
        (1, 1, Budget(bare=2, redis=1), {"absent": 1}),
    ),
    "lay stumps of an older Redis": (
        "rows_are_extended",
        (1, 2, Budget(bare=2, direct=1, redis=1), {"absent": 1}),
    ),
    "laying does not count": (
        "rows_are_extended",
        (1, 1, Budget(bare=2, expiries=1, redis=1), {"absent": 1}),
    ),
    "a laid core is saved like others": (
        "rows_are_extended",
        (1, 1, Budget(bare=2, expiries=1, redis=1), {"absent": 1}),
    ),
    "no saved version of a session": (
        "all_settles",
        (2, 1, Budget(meetings=1, rounds=1, postgres=1), {"sessions": 1}),
    ),
    "save who traded with a deleted one": (
        "no_half_is_saved",
        (2, 1, Budget(deletions=1, trades=1, redis=1), {}),
    ),
    "PostgreSQL back is Redis back": ("no_false_alarm", (1, 1, Budget(writes=2, postgres=1), {})),
    "only Redis remembers a recovery": (
        "reverts_are_whole",
        (2, 1, Budget(trades=1, redis=1, postgres=1), {}),
    ),
    "receipts by version": ("receipts_are_true", (1, 1, Budget(writes=1, durable=1, redis=1), {})),
    "scrub does not compare seals": ("all_settles", (1, 1, Budget(writes=1, redis=1), {})),
    "no note of a creation": (
        "trades_are_whole",
        (2, 1, Budget(creations=1, trades=1), {"absent": 1}),
    ),
    "revert without the rows' sessions": (
        "all_settles",
        (2, 1, Budget(meetings=1, redis=1), {"sessions": 1}),
    ),
    "revert over the session of another": (
        "trades_are_whole",
        (2, 1, Budget(meetings=1, moves=1, evictions=1, redis=1), {"sessions": 1}),
    ),
    "scrub does not compare sessions": (
        "all_settles",
        (2, 1, Budget(meetings=1, moves=1, evictions=1, redis=1), {"sessions": 1}),
    ),
    "no note of a bare core": (
        "no_false_alarm",
        (1, 2, Budget(writes=1, old=1, evictions=1, crashes=1, expiries=1), {"absent": 1}),
    ),
}
"""Which invariant breaks first, and where."""

DEEP = (
    "lay stumps of an older Redis",
    "a laid core is saved like others",
    "laying does not count",
    "revert over the session of another",
    "no note of what was lost",
    "scrub does not compare sessions",
    "only Redis remembers a recovery",
)
"""Those that the search finds only after many thousands of states."""
