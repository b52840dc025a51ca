"""PostgreSQL: the tables, and how characters and sessions are read and written in them."""

from statesync.durable import characters, database, heads, servers, sessions

__all__ = ["characters", "database", "heads", "servers", "sessions"]
