"""In-memory implementations of the search's protocols, for tests that need no service."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.protocols import CandidateRecord, Event, Progress
from search.tracking.base import EndState


class FolderBlobs:
    """A `BlobStore` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put_bytes(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / digest).write_bytes(data)
        return digest

    def put_file(self, path: Path) -> str:
        return self.put_bytes(path.read_bytes())

    def get_bytes(self, digest: str) -> bytes:
        return self.local_path(digest).read_bytes()

    def local_path(self, digest: str) -> Path:
        path = self.folder / digest
        if not path.exists():
            raise KeyError(digest)
        return path

    def exists(self, digest: str) -> bool:
        return (self.folder / digest).exists()


class MemoryStore:
    """A `CandidateStore` that forgets with the process; ``stop`` cancels."""

    def __init__(self) -> None:
        self.records: dict[str, CandidateRecord] = {}
        self.events: list[Event] = []
        self.phases: dict[str, Mapping[str, Any]] = {}
        self.groups: list[int] = []
        self.shown: list[Progress] = []
        self.stop = False

    def save_candidate(self, record: CandidateRecord, events: Sequence[Event] = ()) -> None:
        self.records[record.candidate_id] = record
        self.events.extend(events)

    def candidates(self) -> Sequence[CandidateRecord]:
        return sorted(self.records.values(), key=lambda r: r.trial_number)

    def append(self, event: Event) -> None:
        self.events.append(event)

    def save_phase(self, name: str, value: Mapping[str, Any]) -> None:
        self.phases[name] = value

    def phase(self, name: str) -> Mapping[str, Any] | None:
        return self.phases.get(name)

    def should_stop(self) -> bool:
        return self.stop

    def show(self, progress: Progress) -> None:
        self.shown.append(progress)

    def record_process_group(self, pgid: int) -> None:
        self.groups.append(pgid)


class SilentTracker:
    """A `Tracker` that counts."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start_search(self, search_name: str, parameters: Mapping[str, str]) -> str:
        self.calls.append("start")
        return "parent"

    def log_candidate(self, search_name: str, record: CandidateRecord) -> str:
        self.calls.append(record.candidate_id)
        return record.candidate_id

    def log_artifact(self, search_name: str, candidate_id: str | None, path: Path, artifact_name: str) -> None:
        self.calls.append(f"{candidate_id}/{artifact_name}")

    def end_search(self, search_name: str, metrics: Mapping[str, float], state: EndState) -> None:
        self.calls.append("end")
