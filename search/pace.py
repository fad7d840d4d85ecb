"""How fast this machine works on one network: the seconds that a search is made of, measured on its original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from paretopress.runtime.rounds import LEAST_S
from search.effort_plan import BATCH_SIZE

PHASE = "pace"
PaceSource = Literal["measured", "scaled", "guessed"]
_INFERENCE_MACS_PER_S_PER_CPU, _TRAINING_MACS_PER_S_PER_CPU = 20e9, 8e9
"""Order of magnitude of float32 convolutions of small images on one AVX2 core."""
_GUESSED_FILE_S, _OPEN_S = 2.0, 5.0
_TIMES_FORWARD = 3
"""The backward pass costs about twice the forward pass."""


@dataclass(frozen=True)
class Pace:
    """Seconds of one network on one machine.

    Attributes:
        macs: of one image; another network's seconds are taken to go with them.
        image_s: reading one image.
        step_s: one step of training: timed where anything is trained here, else taken to be that of reading, there and back.
        file_s: exporting it and proving its file.
        latency_ms: of one run on the target; 0 where nothing is measured there.
        baseline_s: opening, reading and measuring it, without its outputs on the training images.
        sensitivity_s: of all its options together; None where that is not known.
        source: ``measured`` on this network, ``scaled`` from another one's by MACs, or ``guessed`` from MACs alone.
    """

    macs: int
    image_s: float
    step_s: float
    file_s: float
    latency_ms: float
    baseline_s: float
    sensitivity_s: float | None = None
    source: PaceSource = "measured"

    @staticmethod
    def guessed(macs: int, cpus: int, read_images: int) -> Pace:
        """From MACs alone, for a machine on which no search has run yet.

        Args:
            read_images: of the validation split.
        """
        image_s = macs / (_INFERENCE_MACS_PER_S_PER_CPU * cpus)
        step_s = _TIMES_FORWARD * BATCH_SIZE * macs / (_TRAINING_MACS_PER_S_PER_CPU * cpus)
        latency_ms = 1000 * macs / _INFERENCE_MACS_PER_S_PER_CPU
        baseline_s = _OPEN_S + _GUESSED_FILE_S + LEAST_S + image_s * read_images
        return Pace(macs, image_s, step_s, _GUESSED_FILE_S, latency_ms, baseline_s, source="guessed")

    @staticmethod
    def untimed_step_s(image_s: float) -> float:
        """Of a step that was not timed."""
        return _TIMES_FORWARD * BATCH_SIZE * image_s

    def scaled(self, macs: int) -> Pace:
        """What it says of another network: passes go with the MACs, files and what is done once do not."""
        times = macs / max(self.macs, 1)
        scaled = (self.image_s * times, self.step_s * times, self.file_s, self.latency_ms * times, self.baseline_s)
        return Pace(macs, *scaled, source="scaled")

    def to_json(self) -> dict[str, Any]:
        """For the store."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Pace:
        """What `to_json` gave."""
        return Pace(**data)
