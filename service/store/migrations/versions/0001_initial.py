"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    _inputs()
    _searches()
    _of_searches()
    op.create_table(
        "requests",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("method", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("resource", sa.String(256), nullable=False),
        sa.UniqueConstraint("project", "method", "request_id"),
    )


def _inputs() -> None:
    op.create_table(
        "inputs",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("project", sa.String(64), nullable=False, index=True),
        sa.Column("name", sa.String(256), nullable=False, unique=True),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("facts_json", sa.Text, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "uploads",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("upload_id", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("resource", sa.String(256), nullable=False),
        sa.Column("update_time", sa.Float, nullable=False),
        sa.UniqueConstraint("project", "kind", "upload_id"),
    )


def _searches() -> None:
    op.create_table(
        "searches",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("project", sa.String(64), nullable=False, index=True),
        sa.Column("name", sa.String(256), nullable=False, unique=True),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("dataset", sa.String(256), nullable=False),
        sa.Column("dataset_notes_json", sa.Text, nullable=False),
        sa.Column("spec_json", sa.Text, nullable=False),
        sa.Column("estimated_duration_s", sa.Float, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("state_message", sa.Text, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("last_sequence", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String(128), nullable=False),
        sa.Column("lease_expires", sa.Float, nullable=False),
        sa.Column("outcome_json", sa.Text, nullable=False),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("start_time", sa.Float),
        sa.Column("end_time", sa.Float),
        sqlite_autoincrement=True,
    )


def _of_searches() -> None:
    def search(primary_key: bool = False, index: bool = False) -> sa.Column[int]:
        key = sa.ForeignKey("searches.id", ondelete="CASCADE")
        return sa.Column("search_id", _KEY, key, nullable=False, primary_key=primary_key, index=index)

    op.create_table(
        "phases",
        search(primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value_json", sa.Text, nullable=False),
    )
    op.create_table(
        "candidates",
        search(primary_key=True),
        sa.Column("candidate_id", sa.String(64), primary_key=True),
        sa.Column("trial_number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("record_json", sa.Text, nullable=False),
    )
    op.create_table(
        "events",
        search(primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("payload_json", sa.Text, nullable=False),
        sa.Column("time", sa.Float, nullable=False),
    )
    op.create_table(
        "process_groups",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        search(index=True),
        sa.Column("pgid", sa.Integer, nullable=False),
        sa.Column("boot_id", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    for table in ("process_groups", "events", "candidates", "phases", "searches", "uploads", "inputs", "requests"):
        op.drop_table(table)
