"""Calibration: measure random networks on the attached target for a while and fit its predictor.

``python -m hw_models.calibrate --target cpu-ort-1t --seconds 45 --out predictor.json``
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime as ort

from hw_models.calibration_networks import CalibrationNetwork
from hw_models.catalogue import neighbour_coefficients_ns
from hw_models.errors import CalibrationError, HardwareModelError
from hw_models.graph import OperatorGraph
from hw_models.kernels import kernels
from hw_models.predictor import COVERAGE, CalibrationSummary, Predictor
from hw_models.roofline import RooflineFit, fit_roofline, summed_work
from hw_models.sampling import sample_networks
from hw_models.targets import Target, get_target
from paretopress.runtime.measure import time_round

CHUNK = 9
FILL_S = 0.03
ROUNDS = 3
FIRST_ROUND_SHARE = 0.3
MAX_DISAGREEMENT = 0.07
QUIETEST_SHARE = 0.1
FOLDS = 5
MIN_NETWORKS = 20

Progress = Callable[[float, str], None]


@dataclass
class Sample:
    """A network's graph with the minimum and the median of every round, in milliseconds.

    A busy machine only ever adds time, so minima of rounds spread in time are what can be trusted on one that others use too.
    """

    graph: OperatorGraph
    minima_ms: list[float] = field(default_factory=list)
    medians_ms: list[float] = field(default_factory=list)

    @property
    def disagreement(self) -> float:
        """How far the second quietest round lies above the quietest, as a fraction."""
        if len(self.minima_ms) < 2:
            return 0.0
        lowest, second = sorted(self.minima_ms)[:2]
        return second / lowest - 1


def calibrate(
    target: Target,
    budget_s: float = 45.0,
    seed: int = 0,
    progress: Progress | None = None,
    max_networks: int | None = None,
) -> Predictor:
    """Measure at least 20 networks, and more for ``budget_s`` seconds; fit. ``progress`` gets a fraction and a line for people.

    Raises:
        CalibrationError: the target is not this machine, or ``max_networks`` is below the 20 that a fit needs.
    """
    if not target.attached:
        raise CalibrationError(f"{target.name} is not attached to this machine: calibrate on the device itself")
    start = time.monotonic()
    samples = measure_samples(target, budget_s, seed, progress, max_networks)
    if len(samples) < MIN_NETWORKS:
        raise CalibrationError(f"only {len(samples)} networks measured, {MIN_NETWORKS} are needed: raise max_networks")
    predictor = fit_predictor(target, samples, seed, time.monotonic() - start)
    if progress:
        progress(1.0, f"{len(samples)} networks, mean error {predictor.summary.mean_error_percent:.1f}%")
    return predictor


def measure_samples(
    target: Target, budget_s: float, seed: int = 0, progress: Progress | None = None, max_networks: int | None = None
) -> list[Sample]:
    """Measure new random networks for a third of the time, then all of them again in two more rounds."""
    start = time.monotonic()
    networks = sample_networks(target.precisions, seed)
    chunks: list[list[tuple[CalibrationNetwork, Sample]]] = []
    count = 0

    def report(share: float) -> None:
        if progress:
            progress(min(0.99, share), f"{count} networks, round {len(chunks[-1][0][1].minima_ms)} of {ROUNDS}")

    def has_time() -> bool:
        # A slow or busy machine still measures as many as a fit needs: late beats never.
        return count < MIN_NETWORKS or time.monotonic() - start < FIRST_ROUND_SHARE * budget_s

    while has_time() and (max_networks is None or count < max_networks):
        wanted = CHUNK if max_networks is None else min(CHUNK, max_networks - count)
        chunks.append([(network, Sample(network.graph)) for network in islice(networks, wanted)])
        count += wanted
        _measure(chunks[-1], target)
        report((time.monotonic() - start) / budget_s)
    for again in range(1, ROUNDS):
        for index, chunk in enumerate(chunks):
            if again > 1 and time.monotonic() - start > budget_s:
                # A machine that slowed down: two rounds are enough to tell which networks repeated.
                break
            _measure(chunk, target)
            report((again + index / len(chunks)) / ROUNDS)
    return [sample for chunk in chunks for _, sample in chunk]


def fit_predictor(target: Target, samples: Sequence[Sample], seed: int = 0, duration_s: float = 0.0) -> Predictor:
    """Fit on the samples that repeated; the interval comes from cross-validation, so from networks that a fit had not seen."""
    samples = repeatable(samples)
    works = [summed_work(kernels(sample.graph, target)) for sample in samples]
    latencies = typical_latencies_ms(samples)
    neighbour = neighbour_coefficients_ns(target.runtime)
    errors = np.zeros(len(samples))
    fold_of = np.random.default_rng(seed).permutation(len(samples)) % FOLDS
    for fold in range(FOLDS):
        seen = [i for i in range(len(samples)) if fold_of[i] != fold]
        fit = fit_roofline([works[i] for i in seen], [latencies[i] for i in seen], target.threads, neighbour)
        held_out = _predictor(target, fit)
        for i in np.flatnonzero(fold_of == fold).tolist():
            errors[i] = np.log(latencies[i] / held_out.predict(samples[i].graph).value_ms)
    summary = CalibrationSummary(
        networks=len(samples),
        mean_error_percent=float(100 * np.mean(np.abs(np.expm1(-errors)))),
        repeatability_percent=float(100 * np.median([sample.disagreement for sample in samples])),
        duration_s=round(duration_s, 1),
        seed=seed,
        runtime=f"onnxruntime {ort.__version__}",
        machine=platform.machine(),
    )
    final = _predictor(target, fit_roofline(works, latencies, target.threads, neighbour))
    return Predictor(target, final.coefficients_ns, final.run_overhead_ns, _log_errors(samples, errors), summary)


def repeatable(samples: Sequence[Sample]) -> list[Sample]:
    """Samples whose two quietest rounds agree within 7%; at least the better half of all, and never fewer than 20."""
    ordered = sorted(samples, key=lambda sample: sample.disagreement)
    agreeing = sum(sample.disagreement <= MAX_DISAGREEMENT for sample in ordered)
    kept = {id(sample) for sample in ordered[: max(agreeing, len(ordered) // 2, MIN_NETWORKS)]}
    return [sample for sample in samples if id(sample) in kept]


def typical_latencies_ms(samples: Sequence[Sample]) -> list[float]:
    """Median latencies on the quiet machine: minima, times the median's distance from the minimum in the quietest rounds."""
    ratios = [m / low for s in samples for m, low in zip(s.medians_ms, s.minima_ms, strict=True)]
    ratio = float(np.quantile(ratios, QUIETEST_SHARE))
    return [ratio * min(sample.minima_ms) for sample in samples]


def _predictor(target: Target, fit: RooflineFit) -> Predictor:
    return Predictor(target, fit.coefficients_ns, fit.run_overhead_ns)


def _measure(chunk: Sequence[tuple[CalibrationNetwork, Sample]], target: Target) -> None:
    models = {network.name: network.onnx_model for network, _ in chunk}
    times = time_round(models, target.threads, optimization=target.optimization, fill_s=FILL_S)
    for network, sample in chunk:
        sample.minima_ms.append(float(times[network.name].min()))
        sample.medians_ms.append(float(np.median(times[network.name])))


def _log_errors(samples: Sequence[Sample], errors: np.ndarray) -> dict[str, float]:
    """Conformal quantile of the absolute log error (Lei et al. 2018, split conformal) by precision."""
    quantiles = {}
    for precision, is_int8 in (("fp32", False), ("int8", True)):
        chosen = [abs(e) for s, e in zip(samples, errors, strict=True) if _is_int8(s.graph) == is_int8]
        if chosen:
            level = min(1.0, COVERAGE * (len(chosen) + 1) / len(chosen))
            quantiles[precision] = float(np.quantile(chosen, level, method="higher"))
    return quantiles


def _is_int8(graph: OperatorGraph) -> bool:
    return any(op.kind == "quantize" for op in graph.operators)


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate the target named on the command line and write its predictor; 2 on a typed error."""
    parser = argparse.ArgumentParser(prog="python -m hw_models.calibrate", description="Fit a target's latency predictor.")
    parser.add_argument("--target", default="cpu-ort-1t")
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        predictor = calibrate(
            get_target(options.target),
            options.seconds,
            options.seed,
            lambda fraction, line: print(f"{100 * fraction:3.0f}%  {line}", file=sys.stderr),
        )
    except HardwareModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.write_text(predictor.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
