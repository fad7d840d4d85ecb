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
ROUNDS = 2
LOW_QUANTILE = 0.3
"""Of a round's runs; the quieter round counts. A busy machine only ever adds time."""
FOLDS = 5
MIN_NETWORKS = 20

Progress = Callable[[float, str], None]


@dataclass
class Sample:
    """A network's graph with its low quantile in each round, in milliseconds."""

    graph: OperatorGraph
    rounds_ms: list[float] = field(default_factory=list)

    @property
    def latency_ms(self) -> float:
        """The quieter round's."""
        return min(self.rounds_ms)


def calibrate(
    target: Target,
    budget_s: float = 45.0,
    seed: int = 0,
    progress: Progress | None = None,
    max_networks: int | None = None,
) -> Predictor:
    """Measure networks for ``budget_s`` seconds and fit; ``progress`` gets a fraction and a line for people.

    Raises:
        CalibrationError: the target is not this machine, or fewer than 20 networks could be measured in the time.
    """
    if not target.attached:
        raise CalibrationError(f"{target.name} is not attached to this machine: calibrate on the device itself")
    start = time.monotonic()
    samples = measure_samples(target, budget_s, seed, progress, max_networks)
    if len(samples) < MIN_NETWORKS:
        raise CalibrationError(
            f"only {len(samples)} networks measured in {budget_s:.0f} s, {MIN_NETWORKS} are needed: give more time"
        )
    predictor = fit_predictor(target, samples, seed, time.monotonic() - start)
    if progress:
        progress(1.0, f"{len(samples)} networks, mean error {predictor.summary.mean_error_percent:.1f}%")
    return predictor


def measure_samples(
    target: Target, budget_s: float, seed: int = 0, progress: Progress | None = None, max_networks: int | None = None
) -> list[Sample]:
    """Measure random networks in chunks that take turns; a chunk's second round comes after the next chunk's first."""
    deadline = time.monotonic() + budget_s
    networks = sample_networks(target.precisions, seed)
    samples: list[Sample] = []
    previous: list[tuple[CalibrationNetwork, Sample]] = []
    while time.monotonic() < deadline and (max_networks is None or len(samples) < max_networks):
        count = CHUNK if max_networks is None else min(CHUNK, max_networks - len(samples))
        chunk = [(network, Sample(network.graph)) for network in islice(networks, count)]
        _measure(chunk, target)
        _measure(previous, target)
        samples += [sample for _, sample in chunk]
        previous = chunk
        if progress:
            done = 1 - (deadline - time.monotonic()) / budget_s
            progress(min(0.99, max(done, 0.0)), f"{len(samples)} networks measured")
    _measure(previous, target)
    return samples


def fit_predictor(target: Target, samples: Sequence[Sample], seed: int = 0, duration_s: float = 0.0) -> Predictor:
    """Fit on all samples; the interval comes from five-fold cross-validation, so from networks that a fit had not seen."""
    works = [summed_work(kernels(sample.graph, target)) for sample in samples]
    latencies = [sample.latency_ms for sample in samples]
    errors = np.zeros(len(samples))
    fold_of = np.random.default_rng(seed).permutation(len(samples)) % FOLDS
    for fold in range(FOLDS):
        seen = [i for i in range(len(samples)) if fold_of[i] != fold]
        fit = fit_roofline([works[i] for i in seen], [latencies[i] for i in seen], target.threads)
        held_out = _predictor(target, fit)
        for i in np.flatnonzero(fold_of == fold).tolist():
            errors[i] = np.log(latencies[i] / held_out.predict(samples[i].graph).value_ms)
    repeats = [abs(s.rounds_ms[0] / s.rounds_ms[-1] - 1) for s in samples]
    summary = CalibrationSummary(
        networks=len(samples),
        mean_error_percent=float(100 * np.mean(np.abs(np.expm1(-errors)))),
        repeatability_percent=float(100 * np.median(repeats)),
        duration_s=round(duration_s, 1),
        seed=seed,
        runtime=f"onnxruntime {ort.__version__}",
        machine=platform.machine(),
    )
    final = _predictor(target, fit_roofline(works, latencies, target.threads))
    return Predictor(target, final.coefficients_ns, final.run_overhead_ns, _log_errors(samples, errors), summary)


def _predictor(target: Target, fit: RooflineFit) -> Predictor:
    return Predictor(target, fit.coefficients_ns, fit.run_overhead_ns)


def _measure(chunk: Sequence[tuple[CalibrationNetwork, Sample]], target: Target) -> None:
    if not chunk:
        return
    models = {network.name: network.onnx_model for network, _ in chunk}
    times = time_round(models, target.threads, optimization=target.optimization, fill_s=FILL_S)
    for network, sample in chunk:
        sample.rounds_ms.append(float(np.quantile(times[network.name], LOW_QUANTILE)))


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
