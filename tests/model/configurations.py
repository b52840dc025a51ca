"""What is searched: small worlds, each with a few things that may happen in it."""

from __future__ import annotations

from tests.model.state import Budget, State, start

Configuration = tuple[int, int, Budget, dict[str, int]]
"""Characters, workers, budget, and more of ``start``."""

FINE: dict[str, Configuration] = {
    "writes": (1, 2, Budget(writes=3, crashes=1, expiries=1, direct=1), {}),
    "bare writers": (1, 2, Budget(writes=1, bare=2, crashes=1, expiries=1), {}),
    "login and logout": (1, 2, Budget(writes=1, bare=1, crashes=1, expiries=1, evictions=1), {}),
    "a commit in doubt": (1, 2, Budget(writes=2, crashes=1, expiries=1, doubts=1), {}),
    "trades of two": (2, 2, Budget(trades=2, crashes=1), {}),
    "trades of three": (3, 2, Budget(trades=2, crashes=1), {}),
    "ties that meet": (4, 1, Budget(trades=2), {"items": 2}),
    "numbers put back": (1, 2, Budget(writes=2, copies=1, crashes=1), {}),
    "numbers put back after a logout": (
        1,
        2,
        Budget(writes=1, copies=1, expiries=1, evictions=1),
        {},
    ),
    "Redis back": (1, 1, Budget(writes=2, redis=1), {}),
    "Redis back, and a slow worker": (1, 2, Budget(writes=1, expiries=1, redis=1), {}),
    "Redis back, and logouts": (1, 1, Budget(writes=2, evictions=1, redis=1), {}),
    "Redis back to bare writes": (1, 1, Budget(bare=1, writes=1, redis=1), {"absent": 1}),
    "Redis back, and numbers put back": (1, 1, Budget(writes=1, copies=1, redis=1), {}),
    "Redis back, and trades of three": (3, 1, Budget(trades=2, redis=1), {}),
    "full lists": (1, 2, Budget(writes=2, crashes=2, expiries=1, direct=1), {"max_seals": 2}),
    "full lists, and Redis back": (1, 2, Budget(writes=1, crashes=2, redis=1), {"max_seals": 2}),
    "PostgreSQL back": (1, 2, Budget(writes=2, expiries=1, postgres=1), {}),
    "PostgreSQL back, and logouts": (1, 1, Budget(writes=1, evictions=1, postgres=1), {}),
    "PostgreSQL back, and trades": (2, 1, Budget(trades=2, postgres=1), {}),
    "both back": (1, 1, Budget(writes=2, redis=1, postgres=1), {}),
    "ids that are used": (
        1,
        2,
        Budget(creations=1, bare=1, crashes=1, expiries=1),
        {"absent": 1},
    ),
    "ids that are used, and Redis back": (
        1,
        1,
        Budget(creations=1, writes=1, redis=1),
        {"absent": 1},
    ),
    "deletion": (1, 2, Budget(deletions=1, writes=1, bare=1, crashes=1), {}),
    "deletion, and Redis back": (1, 1, Budget(deletions=1, writes=1, redis=1), {}),
    "receipts": (1, 1, Budget(durable=2, redis=1), {}),
    "old workers": (1, 2, Budget(writes=2, old=2, crashes=1), {}),
    "old workers and logouts": (1, 2, Budget(writes=1, bare=1, old=2, evictions=1), {}),
    "old workers, and who is not loaded": (
        1,
        2,
        Budget(writes=1, bare=1, old=2, evictions=1, crashes=1),
        {"absent": 1},
    ),
    "tombstones end": (1, 2, Budget(writes=2, evictions=1, tombstones=1), {}),
    "ids that are used, and trades": (
        2,
        1,
        Budget(creations=1, trades=1, redis=1),
        {"absent": 1},
    ),
    "a session": (2, 2, Budget(meetings=1, moves=1, crashes=1, expiries=1), {"sessions": 1}),
    "a session that ends": (
        2,
        1,
        Budget(meetings=1, moves=1, closings=1, crashes=1),
        {"sessions": 1},
    ),
    "a session, and logouts": (2, 1, Budget(meetings=1, moves=1, evictions=2), {"sessions": 1}),
    "a session, and Redis back": (2, 1, Budget(meetings=1, moves=1, redis=1), {"sessions": 1}),
    "a session, and PostgreSQL back": (
        2,
        1,
        Budget(meetings=1, moves=2, postgres=1),
        {"sessions": 1},
    ),
    "a session alone, and PostgreSQL back": (
        2,
        1,
        Budget(meetings=1, rounds=2, postgres=1),
        {"sessions": 1},
    ),
    "deletion and trades": (2, 1, Budget(deletions=1, trades=1), {}),
}

SLOW: dict[str, Configuration] = {
    "bare writers on who is not loaded": (
        1,
        2,
        Budget(bare=2, crashes=1, expiries=1, evictions=1),
        {"absent": 1},
    ),
    "Redis back, and trades": (2, 1, Budget(trades=2, redis=1), {}),
    "writes": (1, 3, Budget(writes=3, crashes=2, expiries=2), {}),
    "trades and writes": (2, 2, Budget(trades=2, writes=1, crashes=1, expiries=1), {}),
    "trades and logouts": (2, 2, Budget(trades=2, crashes=1, evictions=1), {}),
    "Redis back, and a commit in doubt": (1, 2, Budget(writes=2, doubts=1, redis=1), {}),
    "Redis back, and two slow workers": (1, 2, Budget(writes=2, expiries=1, redis=1), {}),
    "Redis back, and a crash": (1, 2, Budget(writes=2, crashes=1, direct=1, redis=1), {}),
    "Redis back, bare writes and logouts": (
        1,
        1,
        Budget(writes=1, bare=1, evictions=1, redis=1),
        {},
    ),
    "Redis back to bare writes": (1, 1, Budget(writes=1, bare=2, redis=1), {"absent": 1}),
    "Redis back, trades, and a slow worker": (2, 2, Budget(trades=1, expiries=1, redis=1), {}),
    "Redis back twice": (1, 1, Budget(writes=2, redis=2), {}),
    "full lists of two": (
        2,
        2,
        Budget(writes=1, trades=1, crashes=2, expiries=1),
        {"max_seals": 2},
    ),
    "old workers, logins and logouts": (
        1,
        2,
        Budget(writes=2, old=2, evictions=1, crashes=1, expiries=1),
        {"absent": 1},
    ),
    "both back, and trades": (2, 1, Budget(trades=1, redis=1, postgres=1), {}),
    "a session that ends": (
        2,
        2,
        Budget(meetings=1, moves=1, closings=1, crashes=1, expiries=1),
        {"sessions": 1},
    ),
    "a session that ends, and Redis back": (
        2,
        1,
        Budget(meetings=1, moves=1, closings=1, redis=1),
        {"sessions": 1},
    ),
    "a session, logouts, and Redis back": (
        2,
        1,
        Budget(meetings=1, moves=1, evictions=1, redis=1),
        {"sessions": 1},
    ),
    "a session, a trade, and Redis back": (
        3,
        1,
        Budget(meetings=1, moves=1, trades=1, redis=1),
        {"sessions": 1},
    ),
    "receipts, and a slow worker": (1, 2, Budget(durable=2, expiries=1, redis=1), {}),
    "deletion, trades, and Redis back": (2, 1, Budget(deletions=1, trades=1, redis=1), {}),
}


def world(configuration: Configuration) -> State:
    """Return the first state of a configuration."""
    characters, workers, budget, more = configuration
    return start(characters, workers, budget, **more)
