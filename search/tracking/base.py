"""The tracker's contract: one parent run per search, one child run per candidate, whichever system keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from search.protocols import CandidateRecord


class Tracker(Protocol):
    """Where candidates are logged for people. Called by the search driver only; every call may be repeated.

    Runs are found again by tag before they are created, so that a restarted search never doubles a run. A tracker that
    cannot be reached must not fail a search: implementations raise `TrackingError`, the outbox tries again later.
    """

    def start_search(self, search_name: str, parameters: Mapping[str, str]) -> str:
        """Create or find the parent run; returns its id."""
        ...

    def log_candidate(self, search_name: str, record: CandidateRecord) -> str:
        """Create or update the child run of a candidate (parameters = flat recipe, metrics = measurements)."""
        ...

    def log_artifact(self, search_name: str, candidate_id: str | None, path: Path, artifact_name: str) -> None:
        """Attach a file to a candidate's run, or to the parent run where there is no candidate."""
        ...

    def end_search(self, search_name: str, metrics: Mapping[str, float], succeeded: bool) -> None:
        """Close the parent run."""
        ...
