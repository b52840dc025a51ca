"""What saving sessions needs: which characters left one, its digest, all sides of a conflict."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("digest", sa.Text(), nullable=True))
    op.add_column(
        "session_characters", sa.Column("left_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.drop_index(op.f("ix_session_characters_character_id"), table_name="session_characters")
    op.create_index(
        op.f("ix_session_characters_character_id"),
        "session_characters",
        ["character_id"],
        postgresql_where=sa.text("left_at IS NULL"),
    )
    op.drop_index("uq_state_conflicts_character_id_version", table_name="state_conflicts")
    op.create_index(
        "uq_state_conflicts_character_id_version",
        "state_conflicts",
        ["character_id", "version", sa.text("md5(state::text)")],
        unique=True,
    )


def downgrade() -> None:
    # If one version lost twice, the older index admits only the first of them.
    op.execute(
        "DELETE FROM state_conflicts later USING state_conflicts first"
        " WHERE later.character_id = first.character_id AND later.version = first.version"
        " AND later.id > first.id"
    )
    op.drop_index("uq_state_conflicts_character_id_version", table_name="state_conflicts")
    op.create_index(
        "uq_state_conflicts_character_id_version",
        "state_conflicts",
        ["character_id", "version"],
        unique=True,
    )
    op.drop_index(op.f("ix_session_characters_character_id"), table_name="session_characters")
    op.create_index(
        op.f("ix_session_characters_character_id"), "session_characters", ["character_id"]
    )
    op.execute("DELETE FROM session_characters WHERE left_at IS NOT NULL")
    op.drop_column("session_characters", "left_at")
    op.drop_column("sessions", "digest")
