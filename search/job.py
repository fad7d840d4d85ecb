"""The way of a request: `run_search` reads from top to bottom what happens to one search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from search.protocols import BlobStore, CandidateStore
from search.spec import SearchSpec
from search.tracking.base import Tracker


@dataclass(frozen=True)
class SearchEnvironment:
    """What a worker hands to `run_search` beside the request.

    Attributes:
        search_name: ``projects/{project}/searches/{search}``.
        predictor_json: the target's calibrated predictor, as stored.
        work_dir: a folder of this search's own for checkpoints; kept while the search may be resumed.
        ray_address: an existing cluster; None starts an embedded one.
        dataset_notes: what the report must say about the data (who chose the split).
    """

    search_name: str
    store: CandidateStore
    blobs: BlobStore
    tracker: Tracker
    predictor_json: str
    work_dir: Path
    ray_address: str | None = None
    cpus: int = 2
    dataset_notes: tuple[str, ...] = ()


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


def run_search(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
    """Run (or resume) one search to its end.

    Raises:
        BaselineError: the original does not behave on this data as stated; the message names the preprocessing.
        SearchError: anything else that is the request's fault; the message says what to do.
    """
    raise NotImplementedError
