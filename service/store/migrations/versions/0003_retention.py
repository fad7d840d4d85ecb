"""When requests were answered, and which server does the upkeep that one alone should do."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Those of before count as answered now: they are kept as long as new ones.
    op.add_column("requests", sa.Column("create_time", sa.Float, nullable=False, server_default=sa.text("0")))
    requests = sa.table("requests", sa.column("create_time", sa.Float))
    op.execute(requests.update().values(create_time=time.time()))
    op.create_table(
        "upkeep",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("lease_expires", sa.Float, nullable=False),
        sa.Column("last_end", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("upkeep")
    with op.batch_alter_table("requests") as batch:
        batch.drop_column("create_time")
