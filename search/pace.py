"""How fast this machine works on one network: the seconds that a search is made of, measured on its original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from paretopress.runtime.rounds import LEAST_S
from search.effort_plan import BATCH_SIZE
from techniques.effort import DTYPES, FLOAT32

PHASE = "pace"
PaceSource = Literal["measured", "scaled", "guessed"]
_INFERENCE_MACS_PER_S_PER_CPU, _TRAINING_MACS_PER_S_PER_CPU = 20e9, 8e9
"""Order of magnitude of float32 convolutions of small images on one AVX2 core."""
_GUESSED_FILE_S, _GUESSED_OPEN_S = 2.0, 15.0
_MOST = 1e15
"""No number of a pace is so large, and none that is no number is below it."""
_TIMES_FORWARD = 3
"""The backward pass costs about twice the forward pass."""


@dataclass(frozen=True)
class Pace:
    """Seconds of one network on one machine.

    Attributes:
        macs: of one image; another network's seconds are taken to go with them.
        image_s: reading one image.
        step_s: one step of training: timed where anything is trained here, else guessed from reading and MACs.
        file_s: exporting it and proving its file.
        latency_ms: of one run on the target; 0 where nothing is measured there.
        open_s: reading the libraries, opening network and data: what is done once, however many images there are.
        sensitivity_s: of all its options together, as they were measured; None where that is not known.
        training_dtype: what a step of training computes in, see `search.step_time.fastest_step`.
        source: ``measured`` on this network, ``scaled`` from another one's by MACs, or ``guessed`` from MACs alone.
    """

    macs: int
    image_s: float
    step_s: float
    file_s: float
    latency_ms: float
    open_s: float
    sensitivity_s: float | None = None
    source: PaceSource = "measured"
    training_dtype: str = FLOAT32

    @property
    def measuring_s(self) -> float:
        """The original's latency, where it is measured."""
        return LEAST_S if self.latency_ms else 0.0

    @staticmethod
    def guessed(macs: int, cpus: int) -> Pace:
        """From MACs alone, for a machine on which no search has run yet."""
        image_s = macs / (_INFERENCE_MACS_PER_S_PER_CPU * cpus)
        step_s = _TIMES_FORWARD * BATCH_SIZE * macs / (_TRAINING_MACS_PER_S_PER_CPU * cpus)
        return Pace(macs, image_s, step_s, _GUESSED_FILE_S, guessed_latency_ms(macs), _GUESSED_OPEN_S, source="guessed")

    @staticmethod
    def untimed_step_s(macs: int, image_s: float, cpus: int) -> float:
        """Of a step that was not timed: the first images are read slowly, so the reading alone may say far too much."""
        return min(_TIMES_FORWARD * BATCH_SIZE * image_s, Pace.guessed(macs, cpus).step_s)

    def scaled(self, macs: int) -> Pace:
        """What it says of another network: passes go with the MACs, files and what is done once do not."""
        times = macs / max(self.macs, 1)
        return replace(
            self,
            macs=macs,
            image_s=self.image_s * times,
            step_s=self.step_s * times,
            latency_ms=self.latency_ms * times,
            sensitivity_s=None,
            source="scaled",
        )

    def to_json(self) -> dict[str, Any]:
        """For the store."""
        return asdict(self)

    @staticmethod
    def read(data: Mapping[str, Any] | None) -> Pace | None:
        """What `to_json` gave; None where there is none, or one of another version."""
        try:
            pace = None if data is None else Pace(**data)
            numbers = () if pace is None else (pace.macs, pace.image_s, pace.step_s, pace.file_s, pace.latency_ms, pace.open_s)
            sound = pace is not None and pace.source in get_args(PaceSource) and pace.training_dtype in DTYPES
            return pace if sound and all(0 <= one < _MOST for one in numbers) else None
        except TypeError:
            return None


def guessed_latency_ms(macs: int) -> float:
    """Of one run on one core."""
    return 1000 * macs / _INFERENCE_MACS_PER_S_PER_CPU
