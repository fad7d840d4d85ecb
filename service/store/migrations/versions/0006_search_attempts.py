"""Searches count the workers that ended while they were at them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("searches", sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")))
    op.add_column("searches", sa.Column("attempts_since", sa.Float, nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    op.drop_column("searches", "attempts_since")
    op.drop_column("searches", "attempts")
