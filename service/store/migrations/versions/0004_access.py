"""API tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("project", sa.String(64), nullable=False, index=True),
        sa.Column("token_id", sa.String(64), nullable=False, unique=True),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("all_projects", sa.Boolean, nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("creator", sa.Text, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("expire_time", sa.Float, nullable=False),
        sa.Column("last_use_time", sa.Float, nullable=True),
        sa.Column("revoke_time", sa.Float, nullable=True),
    )


def downgrade() -> None:
    op.drop_table("api_tokens")
