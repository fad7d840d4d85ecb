"""From measured calibration networks to a predictor, with an interval from networks that a fit had not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from hw_models.as_run import kernels_as_run
from hw_models.end_to_end import PROFILER_MS, EndToEnd, fit_end_to_end, sums
from hw_models.errors import CalibrationError
from hw_models.graph import OperatorGraph
from hw_models.kernel_times import KernelTimes, fit_kernel_times
from hw_models.kernels import Kernel, TimedKernel, kernels
from hw_models.predictor import COVERAGE, CalibrationSummary, Predictor
from hw_models.targets import Target
from hw_models.transfer import TransferredTimes, transferred
from paretopress.runtime.kit.profile import NodeTime
from paretopress.runtime.kit.samples import KitSample

MIN_NETWORKS = 20
MAX_DISAGREEMENT = 0.07
FOLDS = 8

Fit = Callable[[Sequence[Sequence[TimedKernel]]], KernelTimes | TransferredTimes]
FitWhole = Callable[[Sequence[tuple[float, ...]], Sequence[float]], EndToEnd]


def fit_predictor(target: Target, samples: Sequence[KitSample], seed: int = 0, runtime: str = "", machine: str = "") -> Predictor:
    """Fit on the samples that repeated."""
    fit = partial(fit_kernel_times, threads=target.threads)
    return _fit(target, samples, seed, runtime, machine, fit, fit_end_to_end)


def fit_transferred(
    target: Target, samples: Sequence[KitSample], neighbour: Predictor, seed: int = 0, runtime: str = "", machine: str = ""
) -> Predictor:
    """Correct a neighbouring target's predictor by a few samples of this one.

    Raises:
        CalibrationError: the neighbour was itself reached from another, or never measured.
    """
    if not isinstance(neighbour.times, KernelTimes) or not neighbour.calibrated:
        raise CalibrationError(f"{neighbour.target.name} has no calibration of its own: correct a target that has")
    fit = partial(transferred, neighbour.times, threads=target.threads)
    return _fit(target, samples, seed, runtime, machine, fit, partial(fit_end_to_end, prior=neighbour.end_to_end))


def _fit(
    target: Target, samples: Sequence[KitSample], seed: int, runtime: str, machine: str, fit: Fit, fit_whole: FitWhole
) -> Predictor:
    samples = repeatable(samples)
    graphs = [graph_of(sample) for sample in samples]
    timed = [kernels_as_run(graph, quiet_nodes(sample), target) for graph, sample in zip(graphs, samples, strict=True)]
    run = [kernels(graph, target) for graph in graphs]
    latencies = [sample.quiet_ms for sample in samples]
    fold_of = np.random.default_rng(seed).permutation(len(samples)) % FOLDS
    times = _held_out_times(timed, run, fold_of, fit)
    rows = [sums(r, t) for r, t in zip(run, times, strict=True)]
    errors = _held_out_errors(run, times, rows, latencies, fold_of, fit_whole)
    summary = CalibrationSummary(
        networks=len(samples),
        mean_error_percent=float(100 * np.mean(np.abs(np.expm1(-errors)))),
        repeatability_percent=float(100 * np.median([sample.disagreement for sample in samples])),
        seed=seed,
        runtime=runtime,
        machine=machine,
    )
    return Predictor(target, fit(timed), fit_whole(rows, latencies), _log_errors(samples, errors), summary)


def _held_out_times(
    timed: Sequence[Sequence[TimedKernel]], run: Sequence[tuple[Kernel, ...]], fold_of: npt.NDArray[np.int64], fit: Fit
) -> list[list[float]]:
    """Kernel times of every network by a fit that had not seen it."""
    times: list[list[float]] = [[]] * len(run)
    for fold in sorted(set(fold_of.tolist())):
        held_out = fit([timed[i] for i in np.flatnonzero(fold_of != fold).tolist()])
        for i in np.flatnonzero(fold_of == fold).tolist():
            times[i] = held_out.ms(run[i])
    return times


def _held_out_errors(
    run: Sequence[tuple[Kernel, ...]],
    times: Sequence[Sequence[float]],
    rows: Sequence[tuple[float, ...]],
    latencies: Sequence[float],
    fold_of: npt.NDArray[np.int64],
    fit_whole: FitWhole,
) -> npt.NDArray[np.float64]:
    """Log of measured over predicted, every network by fits that had not seen its fold."""
    errors = np.zeros(len(run))
    for fold in sorted(set(fold_of.tolist())):
        seen = np.flatnonzero(fold_of != fold).tolist()
        whole = fit_whole([rows[i] for i in seen], [latencies[i] for i in seen])
        for i in np.flatnonzero(fold_of == fold).tolist():
            errors[i] = np.log(latencies[i] / whole.latency_ms(run[i], times[i]))
    return errors


def graph_of(sample: KitSample) -> OperatorGraph:
    """The operators of a measured network."""
    return OperatorGraph.from_operators(sample.network.operators, sample.network.input_shape)


def repeatable(samples: Sequence[KitSample]) -> list[KitSample]:
    """Samples whose two quietest rounds agree within 7%; at least the better half of all, and never fewer than 20."""
    ordered = sorted(samples, key=lambda sample: sample.disagreement)
    agreeing = sum(sample.disagreement <= MAX_DISAGREEMENT for sample in ordered)
    kept = {id(sample) for sample in ordered[: max(agreeing, len(ordered) // 2, MIN_NETWORKS)]}
    return [sample for sample in samples if id(sample) in kept]


def quiet_nodes(sample: KitSample) -> tuple[NodeTime, ...]:
    """The nodes of a profile; one that was made in a busy moment is brought down to what the network takes quietly.

    All of its nodes alike, to the sum of the quietest turn and what the profiler itself takes.
    """
    quiet_us = 1000 * (sample.quiet_ms + PROFILER_MS * len(sample.nodes))
    slowdown = max(sum(node.us for node in sample.nodes) / quiet_us, 1.0)
    return tuple(replace(node, us=node.us / slowdown) for node in sample.nodes)


def _log_errors(samples: Sequence[KitSample], errors: npt.NDArray[np.float64]) -> dict[str, float]:
    """Conformal quantile of the absolute log error (Lei et al. 2018, split conformal) by precision.

    What was measured has a noise of its own: that of the quietest of as many rounds is added in quadrature.
    """
    noise = _noise(samples)
    quantiles = {}
    for precision in ("fp32", "int8"):
        chosen = [abs(e) for s, e in zip(samples, errors, strict=True) if s.network.precision == precision]
        if chosen:
            level = min(1.0, COVERAGE * (len(chosen) + 1) / len(chosen))
            quantiles[precision] = float(np.hypot(np.quantile(chosen, level, method="higher"), noise))
    return quantiles


def _noise(samples: Sequence[KitSample]) -> float:
    """90% quantile of the log distance of a last round from the quietest of those before."""
    again = [s.medians_ms for s in samples if len(s.medians_ms) > 1]
    if not again:
        return 0.0
    distances = [abs(np.log(medians[-1] / min(medians[:-1]))) for medians in again]
    return float(np.quantile(distances, COVERAGE) / np.sqrt(len(again[0])))
