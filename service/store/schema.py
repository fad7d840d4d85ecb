"""The tables. JSON columns hold what their type's own ``to_json`` wrote, with type and version."""

from __future__ import annotations

import time

from sqlalchemy import BigInteger, Float, ForeignKey, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_NAME = String(256)
_DIGEST = String(64)
_KEY = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Root of the mapped classes."""


class InputRow(Base):
    """A model or a dataset: the uploaded file and what intake found out about it."""

    __tablename__ = "inputs"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(16))
    project: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(_NAME, unique=True)
    display_name: Mapped[str] = mapped_column(Text)
    format: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(_DIGEST)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    facts_json: Mapped[str] = mapped_column(Text)
    create_time: Mapped[float] = mapped_column(Float)


class UploadRow(Base):
    """An upload under way or done; the bytes so far lie in a file."""

    __tablename__ = "uploads"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True, autoincrement=True)
    project: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    upload_id: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(_DIGEST)
    resource: Mapped[str] = mapped_column(_NAME, default="")
    update_time: Mapped[float] = mapped_column(Float)

    __table_args__ = (UniqueConstraint("project", "kind", "upload_id"),)


class SearchRow(Base):
    """A search: request, state, lease and outcome. ``revision`` counts changes of state and request, ``attempts`` the workers
    that have taken the search since anything new was found in it, the first of them at ``attempts_since``."""

    __tablename__ = "searches"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True, autoincrement=True)
    project: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(_NAME, unique=True)
    display_name: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(_NAME)
    dataset: Mapped[str] = mapped_column(_NAME)
    dataset_notes_json: Mapped[str] = mapped_column(Text, default="[]")
    spec_json: Mapped[str] = mapped_column(Text)
    estimated_duration_s: Mapped[float] = mapped_column(Float)
    state: Mapped[str] = mapped_column(String(16), index=True)
    state_message: Mapped[str] = mapped_column(Text, default="")
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    revision: Mapped[int] = mapped_column(Integer, default=1)
    last_sequence: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    lease_expires: Mapped[float] = mapped_column(Float, default=0.0)
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    attempts_since: Mapped[float] = mapped_column(Float, default=0.0, server_default=text("0"))
    outcome_json: Mapped[str] = mapped_column(Text, default="")
    create_time: Mapped[float] = mapped_column(Float)
    start_time: Mapped[float | None] = mapped_column(Float, default=None)
    end_time: Mapped[float | None] = mapped_column(Float, default=None)


class PhaseRow(Base):
    """Result of a finished phase of a search."""

    __tablename__ = "phases"

    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value_json: Mapped[str] = mapped_column(Text)


class CandidateRow(Base):
    """A candidate as the search recorded it."""

    __tablename__ = "candidates"

    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    candidate_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    trial_number: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    record_json: Mapped[str] = mapped_column(Text)


class EventRow(Base):
    """What a watcher sees; ``sequence`` counts from 1 in each search."""

    __tablename__ = "events"

    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    sequence: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    payload_json: Mapped[str] = mapped_column(Text)
    time: Mapped[float] = mapped_column(Float)


class RequestRow(Base):
    """Answer of a request that carried a ``request_id``."""

    __tablename__ = "requests"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True, autoincrement=True)
    project: Mapped[str] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(64))
    fingerprint: Mapped[str] = mapped_column(_DIGEST)
    resource: Mapped[str] = mapped_column(_NAME)
    create_time: Mapped[float] = mapped_column(Float, default=time.time, server_default=text("0"))

    __table_args__ = (UniqueConstraint("project", "method", "request_id"),)


class UpkeepRow(Base):
    """Work that recurs and that one server alone should do: who is at it, and when it was done last."""

    __tablename__ = "upkeep"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(128), default="")
    lease_expires: Mapped[float] = mapped_column(Float, default=0.0)
    last_end: Mapped[float] = mapped_column(Float, default=0.0)


class ApiTokenRow(Base):
    """An API token; of its secret there is only the digest."""

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True, autoincrement=True)
    project: Mapped[str] = mapped_column(String(64), index=True)
    token_id: Mapped[str] = mapped_column(String(64), unique=True)
    display_name: Mapped[str] = mapped_column(Text)
    scope: Mapped[str] = mapped_column(String(16))
    all_projects: Mapped[bool] = mapped_column(default=False)
    secret_sha256: Mapped[str] = mapped_column(_DIGEST)
    creator: Mapped[str] = mapped_column(Text)
    create_time: Mapped[float] = mapped_column(Float)
    expire_time: Mapped[float] = mapped_column(Float)
    last_use_time: Mapped[float | None] = mapped_column(Float, default=None)
    revoke_time: Mapped[float | None] = mapped_column(Float, default=None)


class ProcessGroupRow(Base):
    """A process group that a search started; ended by the next worker if its own could not."""

    __tablename__ = "process_groups"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True, autoincrement=True)
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), index=True)
    pgid: Mapped[int] = mapped_column(Integer)
    boot_id: Mapped[str] = mapped_column(String(64))


class TargetRow(Base):
    """A target that a project has registered."""

    __tablename__ = "targets"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True, autoincrement=True)
    project: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(_NAME, unique=True)
    target_json: Mapped[str] = mapped_column(Text)
    create_time: Mapped[float] = mapped_column(Float)


class CalibrationRow(Base):
    """A calibration: request, state, lease and progress. ``attempts`` counts the workers that began it."""

    __tablename__ = "calibrations"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(_NAME, unique=True)
    target: Mapped[str] = mapped_column(_NAME, index=True)
    budget_s: Mapped[float] = mapped_column(Float)
    state: Mapped[str] = mapped_column(String(16), index=True)
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    message: Mapped[str] = mapped_column(Text, default="")
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    lease_expires: Mapped[float] = mapped_column(Float, default=0.0)
    summary_json: Mapped[str] = mapped_column(Text, default="")
    create_time: Mapped[float] = mapped_column(Float)
    start_time: Mapped[float | None] = mapped_column(Float, default=None)
    end_time: Mapped[float | None] = mapped_column(Float, default=None)


class ScheduleRow(Base):
    """A schedule. ``revision`` counts what users changed; ``next_run_time`` is empty while it is paused and once it has ended."""

    __tablename__ = "schedules"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True, autoincrement=True)
    project: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(_NAME, unique=True)
    spec_json: Mapped[str] = mapped_column(Text)
    paused: Mapped[bool] = mapped_column(default=False)
    next_run_time: Mapped[float | None] = mapped_column(Float, index=True)
    source_version: Mapped[str] = mapped_column(Text, default="")
    revision: Mapped[int] = mapped_column(Integer, default=1)
    create_time: Mapped[float] = mapped_column(Float)


class ScheduleRunRow(Base):
    """What became of a due time. There is one row of each: that is why there is one search of each."""

    __tablename__ = "schedule_runs"

    id: Mapped[int] = mapped_column(_KEY, primary_key=True, autoincrement=True)
    schedule_id: Mapped[int] = mapped_column(ForeignKey("schedules.id", ondelete="CASCADE"))
    due_time: Mapped[float] = mapped_column(Float)
    name: Mapped[str] = mapped_column(_NAME, unique=True)
    manual: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(String(16), index=True)
    message: Mapped[str] = mapped_column(Text, default="")
    search: Mapped[str] = mapped_column(_NAME, default="", index=True)
    source_version: Mapped[str] = mapped_column(Text, default="")
    registration: Mapped[str] = mapped_column(String(16), default="", index=True)
    registered_version: Mapped[str] = mapped_column(Text, default="")
    registration_message: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    lease_expires: Mapped[float] = mapped_column(Float, default=0.0)
    create_time: Mapped[float] = mapped_column(Float)

    __table_args__ = (UniqueConstraint("schedule_id", "due_time"),)
