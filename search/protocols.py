"""What the search needs from the outside; the service implements all three, tests use in-memory ones.

The search driver is the only writer (contract 6): state is written here before anybody is told. Values handed out are
snapshots; methods may be called from the driver's thread only, except `BlobStore`, which any process may use,
`CandidateStore.should_stop`, which any thread may ask, and `CandidateStore.save_phase`, which the clock's thread calls, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

BASELINE = "baseline"
"""Id of the original among the candidates."""
CONTAINER = "model.zip"
"""Name of the file to download, with the model that the target runs and its recipe."""
TrainDevice = Literal["auto", "cpu", "cuda"]
"""Where candidates are trained: on GPUs where Ray has any, never there, or nowhere else."""
EventKind = Literal["state", "phase", "baseline", "sensitivity", "candidate", "front", "warning", "report"]


@dataclass(frozen=True)
class Measurement:
    """A number with its doubt. ``source`` is ``measured``, ``predicted`` or ``counted``; a spread is half an interval's width."""

    value: float
    source: Literal["measured", "predicted", "counted"]
    spread: float = 0.0
    rounds: int = 1


@dataclass(frozen=True)
class RungReading:
    """What a candidate had reached at a rung: accuracy on the validation split with its interval, and the paired drop."""

    rung: int
    accuracy: float
    interval: tuple[float, float]
    drop_points: tuple[float, float, float]


@dataclass(frozen=True)
class CandidateRecord:
    """One candidate as stored (design.md: recipe + seed + rung, with its measurements).

    Attributes:
        candidate_id: unique in the search, such as ``c0007``; the original is ``baseline``.
        trial_number: the sampler's number; the same recipe sampled again keeps its own number.
        policy: what the sampler proposed (flat JSON object), needed to rebuild its study.
        accuracy: per split, as fractions: ``validation`` always, ``selection`` for finalists, ``test`` for the best.
        accuracy_interval: per split, (low, high) of a 95% interval of the accuracy.
        drop_points: per split, (estimate, low, high) of the paired drop against the original, in points.
        measurements: ``latency_ms``, ``macs``, ``parameters``, ``onnx_size_bytes``, ``weight_size_bytes`` ...
        artifacts: artifact name to blob digest: the file that the target runs (``model.onnx``), ``model.pt2``, ``recipe.json`` ...
        state: ``evaluated`` (stopped at its rung), ``finalist`` (exported and measured), ``front``, ``best``, ``failed``.
        last_steps: of its last rung, if it came so far: how many steps the time allowed.
        kept: why the last rung left it as it was, if one was tried; empty otherwise.
        note: what a reader must know of how its files came about.
        earlier: what it had reached at the rungs before this one.
        promoted: whether it goes on to the next rung: until that is read, its trial is not done.
        node: id of the cluster's node on which it reached its rung; empty where the search ran in a runtime of its own.
    """

    candidate_id: str
    trial_number: int
    recipe_json: str
    seed: int
    rung: int
    policy: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    accuracy_interval: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    drop_points: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    state: Literal["evaluated", "finalist", "front", "best", "failed"] = "evaluated"
    feasible: bool | None = None
    error: str = ""
    duration_s: float = 0.0
    node: str = ""
    earlier: tuple[RungReading, ...] = ()
    promoted: bool = False
    last_steps: int = 0
    kept: str = ""
    note: str = ""

    @property
    def readings(self) -> tuple[RungReading, ...]:
        """All rungs that it reached, this one last."""
        if "validation" not in self.accuracy:
            return self.earlier
        own = self.accuracy["validation"], self.accuracy_interval["validation"], self.drop_points["validation"]
        return (*self.earlier, RungReading(self.rung, *own))

    @property
    def goes_on(self) -> bool:
        """Whether its trial is not done: the next rung is still to be read."""
        return self.promoted and not self.error


@dataclass(frozen=True)
class Event:
    """What a watcher sees. The store numbers events from 1 without gaps, in the order in which they were appended."""

    kind: EventKind
    message: str
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """What a search is at.

    Attributes:
        message: a few words for people; empty leaves the phase to speak for itself.
        candidate: the one that is being worked at.
        epoch, epochs: passes over the train split that it has had so far, and will have had by the end of all rungs.
    """

    phase: str
    message: str = ""
    candidate: str = ""
    rung: int = 0
    rungs: int = 0
    epoch: float = 0.0
    epochs: float = 0.0


class BlobStore(Protocol):
    """Content-addressed bytes. Writing the same bytes twice is one blob. Safe across processes; picklable."""

    def put_bytes(self, data: bytes) -> str:
        """Store and return the sha256, hexadecimal."""
        ...

    def put_file(self, path: Path) -> str:
        """Store a file's bytes without reading them all at once."""
        ...

    def get_bytes(self, digest: str) -> bytes:
        """All bytes of a blob.

        Raises:
            KeyError: no such blob.
        """
        ...

    def local_path(self, digest: str) -> Path:
        """A readable local file with the blob's bytes (copied into a cache if the store is remote).

        Raises:
            KeyError: no such blob.
        """
        ...

    def exists(self, digest: str) -> bool:
        """Whether the blob is there."""
        ...


class CandidateStore(Protocol):
    """The truth about one search (the implementation is bound to a search)."""

    def save_candidate(self, record: CandidateRecord, events: Sequence[Event] = ()) -> None:
        """Insert or replace a candidate and append events, in one transaction."""
        ...

    def candidates(self) -> Sequence[CandidateRecord]:
        """All candidates, by trial number; what a restarted worker rebuilds its study from."""
        ...

    def append(self, event: Event) -> None:
        """Append an event."""
        ...

    def save_phase(self, name: str, value: Mapping[str, Any]) -> None:
        """Remember the result of a phase (``sensitivity``, ``places``) so that a restart does not repeat it."""
        ...

    def phase(self, name: str) -> Mapping[str, Any] | None:
        """What `save_phase` stored, or None."""
        ...

    def should_stop(self) -> bool:
        """Whether the search was cancelled (or its lease lost); asked at least once a second."""
        ...

    def show(self, progress: Progress) -> None:
        """What the search is at now, for whoever looks: replaces what was shown before, and may be written down later."""
        ...

    def record_process_group(self, pgid: int) -> None:
        """Remember the embedded runtime's process group, so that a restarted worker can end it."""
        ...
