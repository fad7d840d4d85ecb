"""The tracker's contract: one parent run per search, one child run per candidate, whichever system keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from search.errors import SearchError
from search.protocols import CandidateRecord, Measurement

EndState = Literal["SUCCEEDED", "INFEASIBLE", "CANCELLED", "FAILED"]


class TrackingError(SearchError):
    """The tracker did not take it; the search goes on and the outbox tries again."""


class TrackingRefusedError(SearchError):
    """The tracker will never take it as it is; the message says why."""


def metric_name(name: str, measurement: Measurement) -> str:
    """What a number is called: a predicted one never shares its name with a measured one.

    >>> metric_name("latency_ms", Measurement(2.0, "predicted")), metric_name("latency_ms", Measurement(2.0, "measured"))
    ('latency_ms_predicted', 'latency_ms')
    """
    return f"{name.removeprefix('predicted_')}_predicted" if measurement.source == "predicted" else name


class Tracker(Protocol):
    """Where candidates are logged for people. Called by the search driver only; every call may be repeated.

    Runs are found again by tag before they are created, so that a restarted search never doubles a run. A tracker must not fail
    a search: what cannot be reached raises `TrackingError`, and the outbox tries again later; what will never be taken raises
    `TrackingRefusedError`, and the outbox leaves it out.
    """

    def start_search(self, search_name: str, parameters: Mapping[str, str]) -> str:
        """Create or find the parent run, open it again if it was closed; returns its id. A search that is extended comes with
        other parameters."""
        ...

    def log_candidate(self, search_name: str, record: CandidateRecord) -> str:
        """Create or update the child run of a candidate (parameters = flat recipe, metrics = measurements)."""
        ...

    def log_artifact(self, search_name: str, candidate_id: str | None, path: Path, artifact_name: str) -> None:
        """Attach a file to a candidate's run, or to the parent run where there is no candidate."""
        ...

    def end_search(self, search_name: str, metrics: Mapping[str, float], state: EndState) -> None:
        """Close the parent run, so that how the search ended can be seen in a list."""
        ...
