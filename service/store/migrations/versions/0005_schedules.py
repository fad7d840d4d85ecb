"""Schedules and their runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "schedules",
        _key(),
        sa.Column("project", sa.String(64), nullable=False, index=True),
        sa.Column("name", sa.String(256), nullable=False, unique=True),
        sa.Column("spec_json", sa.Text, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("next_run_time", sa.Float, nullable=True, index=True),
        sa.Column("source_version", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.create_table(
        "schedule_runs",
        _key(),
        sa.Column("schedule_id", _NUMBER, sa.ForeignKey("schedules.id", ondelete="CASCADE"), nullable=False),
        sa.Column("due_time", sa.Float, nullable=False),
        sa.Column("name", sa.String(256), nullable=False, unique=True),
        sa.Column("manual", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("search", sa.String(256), nullable=False, index=True),
        sa.Column("source_version", sa.Text, nullable=False),
        sa.Column("registration", sa.String(16), nullable=False, index=True),
        sa.Column("registered_version", sa.Text, nullable=False),
        sa.Column("registration_message", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String(128), nullable=False),
        sa.Column("lease_expires", sa.Float, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.UniqueConstraint("schedule_id", "due_time"),
    )


def _key() -> sa.Column[int]:
    return sa.Column("id", _NUMBER, primary_key=True, autoincrement=True)


def downgrade() -> None:
    op.drop_table("schedule_runs")
    op.drop_table("schedules")
