"""The truth that hardware models are held against: latencies in rounds spread in time, and long calibrations to learn from.

``python -m benchmarks.hw_truth TARGET`` measures both in turns, since a machine drifts by several percent within an hour; it
resumes. Nothing else may run meanwhile.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.harness import ROOT
from benchmarks.hw_networks import PRECISIONS, TruthNetwork, family_networks
from hw_models.targets import Target, get_target
from paretopress.runtime.kit.samples import CHUNK, KitSample, profiled, with_round
from paretopress.runtime.kit.sampling import sample_networks
from paretopress.runtime.measure import time_round
from paretopress.runtime.quiet import QuietMachine

FOLDER = ROOT / "build" / "hw_models"
ROUNDS = 6
NETWORKS = 432
FILL_S = 0.2
REPEATABLE = 0.05
KIT_SEED = 0
PATIENCE_S, SETTLE_S = 900.0, 10.0
"""For moments in which other guests of the host take a processor; how many there were is written beside the truth."""


@dataclass(frozen=True)
class Truth:
    """A network's medians of every round, in milliseconds and in time order."""

    medians_ms: tuple[float, ...]

    @property
    def latency_ms(self) -> float:
        """Median of the rounds."""
        return float(np.median(self.medians_ms))

    @property
    def repeats(self) -> bool:
        """Whether every other round gives the same median within 5%."""
        first, second = np.median(self.medians_ms[::2]), np.median(self.medians_ms[1::2])
        return bool(abs(first / second - 1) <= REPEATABLE)


def truths(target: str, name: str = "networks") -> dict[str, Truth]:
    """What `measure_networks` has found so far."""
    path = FOLDER / f"truth-{name}-{target}.json"
    rounds = json.loads(path.read_text()) if path.exists() else []
    names = {key for one in rounds for key in one}
    return {key: Truth(tuple(one[key] for one in rounds if key in one)) for key in sorted(names)}


def measure_networks(
    target: Target,
    networks: Sequence[TruthNetwork],
    rounds: int = ROUNDS,
    name: str = "networks",
    machine: QuietMachine | None = None,
) -> None:
    """Measure networks in whole passes, one median each, so that a network's rounds lie minutes apart."""
    machine = machine or QuietMachine(target.threads, PATIENCE_S, SETTLE_S)
    path = FOLDER / f"truth-{name}-{target.name}.json"
    passes: list[dict[str, float]] = json.loads(path.read_text()) if path.exists() else []
    while len(passes) < rounds or any(n.name not in passes[-1] for n in networks):
        if not passes or all(n.name in passes[-1] for n in networks):
            passes.append({})
        left = [n for n in networks if n.name not in passes[-1]]
        for chunk in _chunks(left, 8):
            models = {n.name: n.onnx_path for n in chunk}
            times = machine.work(partial(time_round, models, target.threads, optimization=target.optimization, fill_s=FILL_S))
            passes[-1] |= {key: float(np.median(value)) for key, value in times.items()}
            path.write_text(json.dumps(passes))
        print(f"{target.name}: pass {len(passes)} of {rounds}", flush=True)


def kit_path(target: str, precision: str) -> Path:
    """Samples of a long calibration, one JSON line each."""
    return FOLDER / f"kit-{target}-{precision}.jsonl"


def kit_samples(target: str, precision: str, count: int | None = None) -> list[KitSample]:
    """The first ``count`` samples."""
    lines = kit_path(target, precision).read_text().splitlines()
    return [KitSample.from_json(line) for line in lines[:count]]


def kit_seconds(target: str, precision: str) -> float:
    """How long measuring the kit's networks took."""
    return float(kit_path(target, precision).with_suffix(".seconds").read_text())


def measure_kit(target: Target, precision: str, count: int, machine: QuietMachine) -> None:
    """Profile and time ``count`` random networks of one precision; three rounds each."""
    path = kit_path(target.name, precision)
    done = len(path.read_text().splitlines()) if path.exists() else 0
    before = kit_seconds(target.name, precision) if done else 0.0
    start, pending = time.monotonic(), sample_networks((precision,), KIT_SEED, done)
    while done < count:
        chunks = [list(islice(pending, CHUNK)) for _ in range(4)]
        samples = [machine.work(partial(profiled, chunk, target.threads, target.optimization)) for chunk in chunks]
        for _ in range(2):
            samples = [machine.work(partial(with_round, chunk, target.threads, target.optimization)) for chunk in samples]
        lines = [sample.to_json() for chunk in samples for sample in chunk]
        with path.open("a") as file:
            file.write("\n".join(lines) + "\n")
        done += len(lines)
        seconds = kit_path(target.name, precision).with_suffix(".seconds")
        seconds.write_text(str(before + time.monotonic() - start))
        print(f"{target.name} {precision}: {done} networks, {time.monotonic() - start:.0f} s", flush=True)


def disturbed_share(target: str) -> float | None:
    """Share of all attempts that were made again since the machine was busy; None where nobody counted."""
    path = _attempts_path(target)
    if not path.exists():
        return None
    attempts, disturbed = json.loads(path.read_text())
    return float(disturbed / attempts)


def _attempts_path(target: str) -> Path:
    return FOLDER / f"attempts-{target}.json"


def _chunks(items: Sequence[TruthNetwork], size: int) -> list[Sequence[TruthNetwork]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def measure_in_turns(target: Target, networks: int = NETWORKS, rounds: int = ROUNDS) -> None:
    """Passes over the families and parts of the kit, one after the other."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    machine = QuietMachine(target.threads, PATIENCE_S, SETTLE_S)
    for turn in range(1, rounds + 1):
        measure_networks(target, family_networks(), turn, machine=machine)
        for precision in PRECISIONS:
            measure_kit(target, precision, networks * turn // rounds, machine)
    if machine.attempts:
        _attempts_path(target.name).write_text(json.dumps([machine.attempts, machine.disturbed]))


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    measure_in_turns(get_target(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
