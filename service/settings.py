"""Settings of the server and its worker, from ``PARETOPRESS_*`` environment variables; every one has a working default."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from search.protocols import TrainDevice

MIB = 1 << 20


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "paretopress"


class Settings(BaseSettings):
    """What can be set. Field names in upper case with the prefix ``PARETOPRESS_`` are the variables' names."""

    model_config = SettingsConfigDict(env_prefix="PARETOPRESS_", frozen=True, populate_by_name=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on; others than loopback need TLS and authentication.")
    auth: Literal["none", "tokens"] = Field(
        default="none", description="Who is let in: none: everybody; tokens: bearers of API tokens, and of JWTs where configured."
    )
    allow_insecure: bool = Field(default=False, description="Listen beyond loopback without TLS or authentication all the same.")
    tls_certificate: Path | None = Field(default=None, description="PEM file of the server's certificate chain; read when changed.")
    tls_private_key: Path | None = Field(default=None, description="PEM file of its private key.")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM file of authorities; only clients with a certificate of theirs may connect (mTLS)."
    )
    certificate_principals: dict[str, str] = Field(
        default={}, description="JSON: common names and URIs of client certificates, each with project:scope."
    )
    jwt_issuer: str = Field(default="", description="Issuer (iss) of JSON web tokens that are taken.")
    jwt_audience: str = Field(default="", description="Their audience (aud).")
    jwt_jwks_url: str = Field(default="", description="Where the issuer's public keys are; https.")
    jwt_public_key: Path | None = Field(default=None, description="PEM file of the issuer's public key, instead of the address.")
    jwt_project_claim: str = Field(default="paretopress_project", description="Claim with the project or projects; * is every one.")
    jwt_scope_claim: str = Field(default="scope", description="Claim with read, write or admin (paretopress:read, ... too).")
    quota_stored_bytes: int = Field(default=0, ge=0, description="Bytes that a project may store; 0: no limit.")
    quota_concurrent_searches: int = Field(
        default=0, ge=0, description="Searches of a project that may wait or run at once; 0: no limit."
    )
    quota_trial_hours: float = Field(default=0.0, ge=0, description="Hours of searching of a project within 24 hours; 0: no limit.")
    rate_calls_per_s: float = Field(default=0.0, ge=0, description="Calls a second of one caller; 0: no limit.")
    max_streams: int = Field(
        default=10_000, ge=0, description="Uploads, watches and downloads that one caller may have open; 0: no limit."
    )
    audit_retention_days: float = Field(default=365.0, ge=0, description="Days for which the audit log is kept; 0: for ever.")
    port: int = Field(default=50051, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(default_factory=_default_data_dir, description="Where databases, blobs and checkpoints are kept.")
    database_url: str = Field(
        default="", repr=False, description="SQLAlchemy URL of the store; SQLite in the data directory when empty."
    )
    blob_url: str = Field(
        default="", repr=False, description="fsspec URL of the blob store; a folder in the data directory when empty."
    )
    blob_cache_bytes: int = Field(default=20480 * MIB, gt=0, description="Size of the local copies of a remote blob store.")
    blob_grace_hours: float = Field(default=24.0, ge=2, description="Age at which a blob that nothing refers to is deleted.")
    retention_search_days: float = Field(default=0.0, ge=0, description="Days after which ended searches are deleted; 0: never.")
    retention_request_days: float = Field(
        default=30.0, ge=0, description="Days for which a request_id gets the same answer; 0: for ever."
    )
    dataset_roots: tuple[Path, ...] = Field(
        default=(), description="Folders from which datasets on the server may be read (JSON list)."
    )
    retention_run_days: float = Field(default=90.0, ge=0, description="Days after which runs of schedules are forgotten; 0: never.")
    max_upload_bytes: int = Field(default=2048 * MIB, gt=0, description="Largest file that may be uploaded.")
    max_message_bytes: int = Field(default=8 * MIB, gt=64 * 1024, description="Largest gRPC message.")
    embedded_worker: bool = Field(
        default=True, description="Start and supervise a worker; otherwise run `python -m service.worker`."
    )
    measure_limit_s: float = Field(
        default=60.0, gt=0, description="Seconds for which rounds of measuring are added while latencies have not settled."
    )
    calibration_s: float = Field(default=40.0, gt=0, description="Seconds that the short calibration measures.")
    lease_s: float = Field(default=15.0, gt=1, description="Seconds after which a silent worker has lost its search.")
    cpus: int = Field(default_factory=lambda: os.cpu_count() or 1, gt=0, description="CPUs that a search may use.")
    parallel_trials: int = Field(
        default=1, gt=0, description="Trials of a search at once; one makes the same request and seed give the same candidates."
    )
    trial_cpus: int = Field(default=0, ge=0, description="Threads of a trial; 0: the CPUs shared by the parallel trials.")
    ray_address: str | None = Field(
        default=None,
        validation_alias=AliasChoices("PARETOPRESS_RAY_ADDRESS", "RAY_ADDRESS"),
        description="A Ray cluster; embedded if none.",
    )
    train_device: TrainDevice = Field(
        default="auto", description="Where candidates are trained: on GPUs where Ray has any, never there, or nowhere else."
    )
    cluster_wait_s: float = Field(
        default=300.0, gt=0, description="Seconds for which a search waits for a Ray cluster that has no room for it."
    )
    mlflow_tracking_uri: str = Field(
        default="",
        repr=False,
        validation_alias=AliasChoices("PARETOPRESS_MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_URI"),
        description="Where candidates are tracked; SQLite in the data directory when empty.",
    )
    tracking_retry_s: float = Field(
        default=60.0, gt=0, description="Seconds after which MLflow is sent again what it did not take of ended searches."
    )
    run_schedules: bool = Field(default=True, description="Start what is due; false for a server that should only answer calls.")
    registry_projects: tuple[str, ...] | None = Field(
        default=None,
        description="Projects whose schedules may use the MLflow model registry (JSON list); all where there is no authentication, "
        "none where there is: the registry does not know projects.",
    )
    mlflow_ui: bool = Field(default=False, description="Show the embedded MLflow in a web page.")
    mlflow_host: str = Field(default="127.0.0.1", description="Address of that page; nobody has to log in there.")
    mlflow_port: int = Field(default=5050, ge=1, le=65535, description="Port of that page.")
    shutdown_grace_s: float = Field(default=10.0, ge=0, description="Seconds that calls in progress get when the server stops.")
    log_level: str = Field(default="INFO", description="Python log level.")
    log_format: Literal["text", "json"] = Field(default="text", description="Log lines for people, or JSON objects.")
    metrics_host: str = Field(default="127.0.0.1", description="Address of the page for metrics; nobody has to log in there.")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="Port of /metrics, /readyz and /livez, over HTTP; 0: none.")
    readiness_needs_worker: bool = Field(
        default=True, description="Not ready while no worker lives; false where workers do not share the data directory."
    )

    @property
    def resolved_database_url(self) -> str:
        """The store's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'paretopress.db'}"

    @property
    def resolved_blob_url(self) -> str:
        """The blob store's fsspec URL."""
        return self.blob_url or str(self.data_dir.absolute() / "blobs")

    @property
    def resolved_tracking_uri(self) -> str:
        """Where MLflow runs go."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.data_dir.absolute() / 'mlflow.db'}"

    def may_use_registry(self, project: str) -> bool:
        """Whether the schedules of a project may fetch models from the registry and register results there."""
        return self.auth == "none" if self.registry_projects is None else project in self.registry_projects

    @property
    def shows_mlflow(self) -> bool:
        """Whether the embedded MLflow has a web page."""
        return self.mlflow_ui and not self.mlflow_tracking_uri

    @property
    def mlflow_artifacts(self) -> str | None:
        """Artifact location of the embedded MLflow; None where a tracking server decides."""
        return None if self.mlflow_tracking_uri else (self.data_dir.absolute() / "mlartifacts").as_uri()

    @property
    def uploads_dir(self) -> Path:
        """Unfinished uploads."""
        return self.data_dir.absolute() / "uploads"

    @property
    def audit_dir(self) -> Path:
        """The audit log, one file a day."""
        return self.data_dir.absolute() / "audit"

    @property
    def targets_dir(self) -> Path:
        """Calibrated predictors, one JSON file per target."""
        return self.data_dir.absolute() / "targets"

    @property
    def workers_dir(self) -> Path:
        """Signs of life of workers."""
        return self.data_dir.absolute() / "workers"

    @property
    def work_dir(self) -> Path:
        """Checkpoints, one folder per search."""
        return self.data_dir.absolute() / "work"

    def environment(self) -> dict[str, str]:
        """The variables that give another process these settings."""
        values = self.model_dump(mode="json", exclude_none=True)
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        return {f"PARETOPRESS_{name.upper()}": text for name, text in texts.items() if text}
