"""What tells apart histories: seals of rows, durable changes, counters of both servers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("characters", "sessions"):
        op.add_column(table, sa.Column("seal", sa.BigInteger(), nullable=True))
        op.add_column(table, sa.Column("seal_version", sa.BigInteger(), nullable=True))
    op.add_column("state_conflicts", sa.Column("session_id", sa.Uuid(), nullable=True))
    op.add_column("state_conflicts", sa.Column("divergence", sa.BigInteger(), nullable=True))
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
    op.drop_column("state_conflicts", "divergence")
    op.drop_column("state_conflicts", "session_id")
    for table in ("sessions", "characters"):
        op.drop_column(table, "seal_version")
        op.drop_column(table, "seal")
