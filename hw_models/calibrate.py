"""Calibration: measure random networks on the attached target, where they are still predicted badly most of all, and fit.

``python -m hw_models.calibrate --target cpu-ort-1t --seconds 45 --out predictor.json``
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import onnxruntime as ort

from hw_models.adaptive import choose, cover
from hw_models.errors import CalibrationError, HardwareModelError
from hw_models.fitting import MIN_NETWORKS, fit_predictor, fit_transferred
from hw_models.predictor import Predictor
from hw_models.targets import Target, get_target
from paretopress.runtime.kit.samples import CHUNK, KitSample, profiled, with_round
from paretopress.runtime.kit.sampling import sample_networks
from paretopress.runtime.quiet import QuietMachine

ROUNDS = 3
PATIENCE_SHARE = 0.2
"""Of the time for measuring: what may be spent on doing again what a busy machine disturbed."""
FIRST_ROUND_SHARE = 0.5
FIT_SHARE = 0.8
LATE = 2.0
"""How many times as long as asked for a machine may take on which as many networks as a fit needs take longer."""
BLIND_NETWORKS = 45
POOL = 3
"""Random networks that each measured one is chosen from, once there is something to choose by."""
FEW_NETWORKS = 60
"""Below this many, a neighbour's model is corrected instead of a new one fitted, where there is a neighbour."""
COVER_POOL = 4
"""Random networks that each one is chosen from when few may be measured."""

Progress = Callable[[float, str], None]


def calibrate(
    target: Target,
    budget_s: float = 45.0,
    seed: int = 0,
    progress: Progress | None = None,
    max_networks: int | None = None,
    neighbour: Predictor | None = None,
) -> Predictor:
    """Measure at least 20 networks, and more for ``budget_s`` seconds; fit. ``progress`` gets a fraction and a line for people.

    Args:
        neighbour: a predictor of a similar target, whose model is corrected where few networks were measured.

    Raises:
        CalibrationError: the target is not this machine, or ``max_networks`` is below the 20 that a fit needs.
    """
    if not target.attached:
        raise CalibrationError(f"{target.name} is not attached to this machine: calibrate on the device itself")
    start = time.monotonic()
    samples = measure_samples(target, budget_s, seed, progress, max_networks)
    if len(samples) < MIN_NETWORKS:
        raise CalibrationError(f"only {len(samples)} networks measured, {MIN_NETWORKS} are needed: raise max_networks")
    runtime, machine = f"onnxruntime {ort.__version__}", platform.machine()
    if neighbour is not None and len(samples) < FEW_NETWORKS:
        predictor = fit_transferred(target, samples, neighbour, seed, runtime, machine)
    else:
        predictor = fit_predictor(target, samples, seed, runtime, machine)
    predictor = predictor.with_duration(round(time.monotonic() - start, 1))
    if progress:
        progress(1.0, f"{len(samples)} networks, mean error {predictor.summary.mean_error_percent:.1f}%")
    return predictor


def measure_samples(
    target: Target, budget_s: float, seed: int = 0, progress: Progress | None = None, max_networks: int | None = None
) -> list[KitSample]:
    """Profile new networks for half of the time, then run all of them again in two more rounds.

    A slow machine takes longer, until it has measured as many as a fit needs, or twice the time: late beats bad.
    """
    start = time.monotonic()
    pending = sample_networks(target.precisions, seed)
    few = max_networks if max_networks is not None and max_networks < FEW_NETWORKS else 0
    if few:
        pending = iter(cover(list(islice(pending, COVER_POOL * few)), target, few))
    chunks: list[list[KitSample]] = []
    count = 0

    machine = QuietMachine(target.threads, PATIENCE_SHARE * FIT_SHARE * budget_s)
    first_s = FIT_SHARE * FIRST_ROUND_SHARE * budget_s

    def report(done: float, round_number: int) -> None:
        """``done`` is the share of this round."""
        if progress:
            fraction = FIT_SHARE * (round_number - 1 + min(done, 1.0)) / ROUNDS
            progress(fraction, f"{count} networks, round {round_number} of {ROUNDS}")

    def has_time() -> bool:
        taken_s = time.monotonic() - start
        return count < MIN_NETWORKS or taken_s < first_s or (count < FEW_NETWORKS and taken_s < LATE * first_s)

    while has_time() and (max_networks is None or count < max_networks):
        wanted = CHUNK if max_networks is None else min(CHUNK, max_networks - count)
        seen = [sample for chunk in chunks for sample in chunk]
        pool = list(islice(pending, wanted if few or count < BLIND_NETWORKS else POOL * wanted))
        chosen = choose(pool, seen, target, wanted)
        chunks.append(machine.work(partial(profiled, chosen, target.threads, target.optimization)))
        count += wanted
        report((time.monotonic() - start) / first_s, 1)
    for again in range(1, ROUNDS):
        for index, chunk in enumerate(chunks):
            if again > 1 and time.monotonic() - start > LATE * FIT_SHARE * budget_s:
                # A machine that slowed down: two rounds are enough to tell which networks repeated.
                break
            chunks[index] = machine.work(partial(with_round, chunk, target.threads, target.optimization))
            report((index + 1) / len(chunks), again + 1)
    return [sample for chunk in chunks for sample in chunk]


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate the target named on the command line and write its predictor; 2 on a typed error."""
    parser = argparse.ArgumentParser(prog="python -m hw_models.calibrate", description="Fit a target's latency predictor.")
    parser.add_argument("--target", default="cpu-ort-1t")
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", type=int, default=None, help="measure at most this many networks")
    parser.add_argument("--neighbour", type=Path, help="predictor of a similar target, corrected where few networks are measured")
    options = parser.parse_args(arguments)
    try:
        predictor = calibrate(
            get_target(options.target),
            options.seconds,
            options.seed,
            lambda fraction, line: print(f"{100 * fraction:3.0f}%  {line}", file=sys.stderr),
            options.networks,
            Predictor.from_json(options.neighbour.read_text()) if options.neighbour else None,
        )
    except HardwareModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.write_text(predictor.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
