"""Registered targets and calibrations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "targets",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("project", sa.String(64), nullable=False, index=True),
        sa.Column("name", sa.String(256), nullable=False, unique=True),
        sa.Column("target_json", sa.Text, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "calibrations",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(256), nullable=False, unique=True),
        sa.Column("target", sa.String(256), nullable=False, index=True),
        sa.Column("budget_s", sa.Float, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String(128), nullable=False),
        sa.Column("lease_expires", sa.Float, nullable=False),
        sa.Column("summary_json", sa.Text, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("start_time", sa.Float),
        sa.Column("end_time", sa.Float),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    for table in ("calibrations", "targets"):
        op.drop_table(table)
