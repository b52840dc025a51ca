"""Owns the tables. A test checks that Alembic's migrations lead to them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

__all__ = [
    "STATS",
    "character_stats",
    "characters",
    "combat_log",
    "durable_changes",
    "inventory_items",
    "metadata",
    "moment",
    "operator_actions",
    "scenario_progress",
    "server_counters",
    "session_characters",
    "sessions",
    "state_conflicts",
]

STATS = (
    "strength",
    "agility",
    "endurance",
    "intelligence",
    "wisdom",
    "perception",
    "charisma",
    "luck",
)
"""The stats that have columns; any other goes to ``character_stats.extra``."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)


def _json(name: str) -> Column[object]:
    return Column(name, JSONB, nullable=False, server_default=text("'{}'::jsonb"))


def moment(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


def _seal() -> list[Column[int]]:
    """Return the columns of the mark of the snapshot that a row was saved from, and its version.

    A worker from before seals raises the version alone: such a row has no valid seal.
    """
    return [Column("seal", BigInteger), Column("seal_version", BigInteger)]


characters = Table(
    "characters",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text),
    Column("gender", Text),
    Column("created_at", DateTime(timezone=True)),
    Column("game_stage", Text),
    Column("location_id", Text),
    Column("prev_location_id", Text),
    Column("vitals", JSONB),
    _json("extra"),
    Column("version", BigInteger, nullable=False, server_default=text("0")),
    moment("updated_at"),
    Column("deleted_at", DateTime(timezone=True)),
    *_seal(),
    # Every save rewrites the row. Room on the page lets PostgreSQL do so in place (HOT).
    postgresql_with={"fillfactor": 80},
)

character_stats = Table(
    "character_stats",
    metadata,
    Column(
        "character_id",
        BigInteger,
        ForeignKey("characters.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    *(Column(name, Integer) for name in STATS),
    _json("extra"),
    postgresql_with={"fillfactor": 80},
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("session_type", Text, nullable=False),
    _json("payload"),
    Column("version", BigInteger, nullable=False, server_default=text("0")),
    moment("created_at"),
    moment("updated_at"),
    Column("closed_at", DateTime(timezone=True)),
    # A hash of the content, so that a session that several participants save is written once.
    Column("digest", Text),
    *_seal(),
)

session_characters = Table(
    "session_characters",
    metadata,
    Column("session_id", Uuid, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column(
        "character_id",
        BigInteger,
        ForeignKey("characters.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("left_at", DateTime(timezone=True)),
)
Index(
    "ix_session_characters_character_id",
    session_characters.c.character_id,
    # A character may have left thousands of fights; a restore asks for the one that is open.
    postgresql_where=session_characters.c.left_at.is_(None),
)

combat_log = Table(
    "combat_log",
    metadata,
    Column("session_id", Uuid, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("entry", JSONB, nullable=False),
)

inventory_items = Table(
    "inventory_items",
    metadata,
    Column("item_id", Text, primary_key=True),
    Column(
        "character_id",
        BigInteger,
        ForeignKey("characters.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("kind", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    _json("attributes"),
)

scenario_progress = Table(
    "scenario_progress",
    metadata,
    Column(
        "character_id",
        BigInteger,
        ForeignKey("characters.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("quest_id", Text, primary_key=True),
    Column("node", Text),
    _json("variables"),
    _json("graph"),
)

state_conflicts = Table(
    "state_conflicts",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("character_id", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", JSONB, nullable=False),
    moment("recorded_at"),
    Column("session_id", Uuid),
    Column("divergence", BigInteger),
    # What is recorded again after a crash is the same entry.
    Index(
        "uq_state_conflicts_character_id_version",
        "character_id",
        "version",
        text("md5(state::text)"),
        unique=True,
    ),
)

durable_changes = Table(
    "durable_changes",
    metadata,
    Column("nonce", Uuid, primary_key=True),
    moment("committed_at"),
    Index("ix_durable_changes_committed_at", "committed_at"),
)

server_counters = Table(
    "server_counters",
    metadata,
    Column("key_prefix", Text, primary_key=True),
    Column("sweeps", BigInteger, nullable=False, server_default=text("0")),
    # What PostgreSQL remembers of Redis.
    Column("redis_sweeps", BigInteger, nullable=False, server_default=text("0")),
    Column("redis_run_id", Text),
    Column("last_loss", JSONB, key="losses"),
    Column("lost_at", DateTime(timezone=True)),
)

operator_actions = Table(
    "operator_actions",
    metadata,
    # An identity: whoever may insert needs no right on a sequence.
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    moment("at"),
    Column("who", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("realm", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("outcome", Text),
)
