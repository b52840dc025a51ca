"""What tells apart histories: seals of rows, durable changes, counters of both servers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OLD_INDEX = "uq_state_conflicts_character_id_version"
_OLD_COLUMNS = ["character_id", "version", sa.text("md5(state::text)")]


def upgrade() -> None:
    for table in ("characters", "sessions"):
        op.add_column(table, sa.Column("seal", sa.BigInteger(), nullable=True))
        op.add_column(table, sa.Column("seal_version", sa.BigInteger(), nullable=True))
    op.add_column("state_conflicts", sa.Column("session_id", sa.Uuid(), nullable=True))
    op.add_column("state_conflicts", sa.Column("divergence", sa.BigInteger(), nullable=True))
    op.create_index(
        "uq_state_conflicts_divergence",
        "state_conflicts",
        [
            "character_id",
            "divergence",
            sa.text("coalesce(session_id, '00000000-0000-0000-0000-000000000000'::uuid)"),
        ],
        unique=True,
        postgresql_where=sa.text("divergence IS NOT NULL"),
    )
    op.drop_index(_OLD_INDEX, table_name="state_conflicts")
    op.create_index(
        _OLD_INDEX,
        "state_conflicts",
        _OLD_COLUMNS,
        unique=True,
        postgresql_where=sa.text("divergence IS NULL"),
    )
    op.create_table(
        "durable_changes",
        sa.Column("nonce", sa.Uuid(), nullable=False),
        sa.Column(
            "committed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("nonce", name=op.f("pk_durable_changes")),
    )
    op.create_index(op.f("ix_durable_changes_committed_at"), "durable_changes", ["committed_at"])
    op.create_table(
        "server_counters",
        sa.Column("key_prefix", sa.Text(), nullable=False),
        sa.Column("sweeps", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("redis_sweeps", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("redis_run_id", sa.Text(), nullable=True),
        sa.Column("last_loss", postgresql.JSONB(), nullable=True),
        sa.Column("lost_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key_prefix", name=op.f("pk_server_counters")),
    )


def downgrade() -> None:
    op.drop_table("server_counters")
    op.drop_table("durable_changes")
    op.drop_index("uq_state_conflicts_divergence", table_name="state_conflicts")
    op.drop_index(_OLD_INDEX, table_name="state_conflicts")
    # The older index admits the same state of a character only once.
    op.execute(
        "DELETE FROM state_conflicts later USING state_conflicts first"
        " WHERE later.character_id = first.character_id AND later.version = first.version"
        " AND md5(later.state::text) = md5(first.state::text) AND later.id > first.id"
    )
    op.create_index(_OLD_INDEX, "state_conflicts", _OLD_COLUMNS, unique=True)
    op.drop_column("state_conflicts", "divergence")
    op.drop_column("state_conflicts", "session_id")
    for table in ("sessions", "characters"):
        op.drop_column(table, "seal_version")
        op.drop_column(table, "seal")
