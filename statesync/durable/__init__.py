"""PostgreSQL: the tables, and how characters and sessions are read and written in them."""

from statesync.durable import (
    active,
    characters,
    conflicts,
    cores,
    database,
    digests,
    heads,
    losses,
    memberships,
    moves,
    plain,
    receipts,
    servers,
    sessions,
    sizes,
)

__all__ = [
    "active",
    "characters",
    "conflicts",
    "cores",
    "database",
    "digests",
    "heads",
    "losses",
    "memberships",
    "moves",
    "plain",
    "receipts",
    "servers",
    "sessions",
    "sizes",
]
