"""What goes into a search beside the request, and what comes out of it. Imports nothing heavy: workers read it first."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from search.protocols import BlobStore, CandidateStore, TrainDevice
from search.tracking.base import Tracker
from search.tracking.described import SearchOrigin


@dataclass(frozen=True)
class SearchEnvironment:
    """What a worker hands to `run_search` beside the request.

    Attributes:
        search_name: ``projects/{project}/searches/{search}``.
        predictor_json: the target's calibrated predictor, as stored.
        work_dir: a folder of this search's own for checkpoints; kept while the search may be resumed.
        ray_address: an existing cluster; None starts an embedded one.
        parallel_trials: one makes a search repeatable (contract 7); more share the CPUs.
        trial_cpus: threads of a trial; 0 shares ``cpus`` between the parallel ones.
        train_device: ``auto`` trains on GPUs where there are any.
        cluster_wait_s: how long a cluster may leave the search waiting without anything running.
        dataset_notes: what the report must say about the data (who chose the split).
        measure_limit_s: for which rounds of measuring are added while latencies have not settled.
        origin: what the request called model, dataset and itself; for the tracker.
        began: of `time.monotonic`: when the worker took the search up; its wall time counts from here. Calibrating the machine
            comes before it: that is done once, and for all searches. What earlier workers have spent is taken off by `run_search`.
    """

    search_name: str
    store: CandidateStore
    blobs: BlobStore
    tracker: Tracker
    predictor_json: str
    work_dir: Path
    ray_address: str | None = None
    cpus: int = 2
    parallel_trials: int = 1
    trial_cpus: int = 0
    train_device: TrainDevice = "auto"
    cluster_wait_s: float = 300.0
    dataset_notes: tuple[str, ...] = ()
    measure_limit_s: float = 60.0
    origin: SearchOrigin = field(default_factory=SearchOrigin)
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class SearchOutcome:
    """How a search ended; the store already holds all of it when this is returned.

    Attributes:
        state: INFEASIBLE comes with ``nearest`` (a candidate id) and ``broken_limits`` (limit -> by how much it is broken).
        report_sha256: blob of report.json, also for INFEASIBLE.
    """

    state: Literal["SUCCEEDED", "INFEASIBLE", "CANCELLED"]
    message: str
    best: str | None = None
    nearest: str | None = None
    broken_limits: Mapping[str, float] = field(default_factory=dict)
    report_sha256: str | None = None
    front: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
