"""Checks of the hardware models: what a network costs on a target, known before it is built. ``make bench-hw-models``.

Measuring takes an hour on two cores and is kept in ``build/hw_models`` (`benchmarks.hw_networks`, `hw_truth`, `hw_variants`);
the machine must be quiet meanwhile. Fitting and judging take minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.harness import ROOT, Check, Results, Row, run_tests, test_check
from benchmarks.hw_networks import PRECISIONS, TruthNetwork, family_networks, write_families
from benchmarks.hw_truth import (
    FOLDER,
    NETWORKS,
    disturbed_share,
    kit_samples,
    kit_seconds,
    measure_in_turns,
    measure_networks,
    truths,
)
from benchmarks.hw_variants import ACCURACIES, variants, write_variants
from hw_models.adaptive import cover
from hw_models.fitting import fit_predictor, fit_transferred
from hw_models.predictor import Predictor
from hw_models.targets import get_target
from paretopress.runtime.kit.samples import KitSample
from search.pareto import non_dominated_ranks

NAME = "hw_models"
TARGETS = ("cpu-ort-1t", "cpu-ort-all", "cpu-ort-1t-extended")
CURVE = (10, 25, 50, 100, 200, 400)
OTHER_NETWORKS, OTHER_ROUNDS = 216, 3
"""For the targets that line 2 asks less of."""
FEW = 25
PREDICTOR = FOLDER / "predictor.json"
VARIANT_ROUNDS = 4
TESTS = {
    "hardware-models 6": "tests/search/test_families_priced.py",
    "hardware-models 0 kernels as run": "tests/hw_models/test_kernels.py",
}


def run(results: Results) -> None:
    """Measure what is missing, then judge."""
    write_families()
    write_variants()
    measure_in_turns(get_target(TARGETS[0]))
    for name in TARGETS[1:]:
        measure_in_turns(get_target(name), OTHER_NETWORKS, OTHER_ROUNDS)
    measure_networks(get_target("cpu-ort-1t"), variants(), VARIANT_ROUNDS, "variants")
    judge(results)


def judge(results: Results) -> None:
    """All rows from what was measured."""
    for name in TARGETS:
        results.cell(f"truth {name}", lambda name=name: _truth(name), again=True)  # type: ignore[misc]
        for precision in PRECISIONS:
            results.cell(f"accuracy {name} {precision}", lambda n=name, p=precision: _accuracy(n, p), again=True)  # type: ignore[misc]
    for precision in PRECISIONS:
        for count in CURVE:
            cell = f"curve cpu-ort-1t {precision} {count:03d}"
            results.cell(cell, lambda p=precision, c=count: _learned(p, c), again=True)  # type: ignore[misc]
        for name in TARGETS[1:]:
            results.cell(f"few-shot {name} {precision}", lambda n=name, p=precision: _few_shot(n, p), again=True)  # type: ignore[misc]
    results.cell("ranking", _ranking, again=True)
    results.cell("pricing", _pricing, again=True)
    for line, row in zip(TESTS, run_tests(TESTS.values()), strict=True):
        results.cell(f"test {line}", lambda row=row: row, again=True)  # type: ignore[misc]


@cache
def predictor(target: str, networks: int = NETWORKS) -> Predictor:
    """Fitted to the kit's first networks of both precisions, as a calibration is."""
    return fit_predictor(get_target(target), both(target, networks))


def both(target: str, networks: int) -> list[KitSample]:
    """As many samples of each precision."""
    return [sample for precision in PRECISIONS for sample in kit_samples(target, precision, networks)]


def judged(fitted: Predictor, target: str, networks: Sequence[TruthNetwork], name: str = "networks") -> Row:
    """Predicted against measured latencies."""
    truth = truths(target, name)
    predicted = [fitted.predict(network.graph()) for network in networks]
    measured = np.array([truth[network.name].latency_ms for network in networks])
    ratio = np.array([p.value_ms for p in predicted]) / measured
    covered = [p.low_ms <= ms <= p.high_ms for p, ms in zip(predicted, measured, strict=True)]
    return {
        "networks": len(networks),
        "within_10_percent": float(np.mean(np.abs(ratio - 1) <= 0.1)),
        "mean_error_percent": float(100 * np.mean(np.abs(ratio - 1))),
        "spearman": float(spearmanr([p.value_ms for p in predicted], measured)[0]),
        "interval_covers": float(np.mean(covered)),
        "interval_half_width": float(np.mean([p.high_ms / p.value_ms - 1 for p in predicted])),
        "repeatable": float(np.mean([truth[network.name].repeats for network in networks])),
    }


def _families(precision: str) -> list[TruthNetwork]:
    return [network for network in family_networks() if network.precision == precision]


def _truth(target: str) -> Row:
    found = [truth for name, truth in truths(target).items()]
    distances = [abs(float(np.median(t.medians_ms[::2]) / np.median(t.medians_ms[1::2])) - 1) for t in found]
    return {
        "networks": len(found),
        "rounds": min(len(t.medians_ms) for t in found),
        "repeatable": float(np.mean([t.repeats for t in found])),
        "median_disagreement_percent": float(100 * np.median(distances)),
        "disturbed_attempts": disturbed_share(target),
        "families": len({network.group for network in family_networks()}),
    }


def _accuracy(target: str, precision: str) -> Row:
    fitted = predictor(target)
    calibration = {"calibration_networks": fitted.summary.networks, "calibration_seconds": kit_seconds(target, precision)}
    return {**judged(fitted, target, _families(precision)), **calibration}


def _learned(precision: str, count: int) -> Row:
    return judged(predictor("cpu-ort-1t", count), "cpu-ort-1t", _families(precision))


def _few_shot(target: str, precision: str) -> Row:
    """The one-thread target's model, corrected by a few networks of this one, against a fit of its own with all."""
    few = [sample for one in PRECISIONS for sample in _covering(target, one)]
    row = judged(fit_transferred(get_target(target), few, predictor("cpu-ort-1t")), target, _families(precision))
    alone = judged(predictor(target, FEW), target, _families(precision))
    full = judged(predictor(target), target, _families(precision))
    return {
        **row,
        "full_mean_error_percent": full["mean_error_percent"],
        "alone_mean_error_percent": alone["mean_error_percent"],
        "ratio_to_full": row["mean_error_percent"] / full["mean_error_percent"],
    }


def _covering(target: str, precision: str) -> list[KitSample]:
    """The few networks that cover most, chosen without looking at what was measured."""
    samples = {sample.network.name: sample for sample in kit_samples(target, precision, OTHER_NETWORKS)}
    chosen = cover([sample.network for sample in samples.values()], get_target(target), FEW)
    return [samples[network.name] for network in chosen]


def _ranking() -> Row:
    truth = truths("cpu-ort-1t", "variants")
    accuracies = json.loads(ACCURACIES.read_text())
    networks = variants()
    predicted = [predictor("cpu-ort-1t").predict(n.graph()).value_ms for n in networks]
    measured = [truth[n.name].latency_ms for n in networks]
    errors = [1 - accuracies[n.name] for n in networks]
    by_prediction = [i for i, rank in enumerate(non_dominated_ranks(list(zip(errors, predicted, strict=True)))) if rank == 0]
    by_truth = [i for i, rank in enumerate(non_dominated_ranks(list(zip(errors, measured, strict=True)))) if rank == 0]
    reference = (1.0, max(measured))
    volumes = [hypervolume([(errors[i], measured[i]) for i in chosen], reference) for chosen in (by_prediction, by_truth)]
    ratio = np.array(predicted) / np.array(measured)
    return {
        "variants": len(networks),
        "repeatable": float(np.mean([truth[n.name].repeats for n in networks])),
        "spearman": float(spearmanr(predicted, measured)[0]),
        "mean_error_percent": float(100 * np.mean(np.abs(ratio - 1))),
        "hypervolume_kept": volumes[0] / volumes[1],
        "front_sizes": f"{len(by_prediction)} predicted, {len(by_truth)} true",
    }


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area that points (both coordinates minimised) dominate up to the reference."""
    area, best = 0.0, reference[1]
    for x, y in sorted(points):
        if y < best and x < reference[0]:
            area += (reference[0] - x) * (best - y)
            best = y
    return area


def _pricing() -> Row:
    """10,000 recipes in two processes; what exporting and measuring one costs, beside it."""
    PREDICTOR.write_text(predictor("cpu-ort-1t").to_json())
    command = [sys.executable, "-m", "benchmarks.hw_pricing", str(PREDICTOR)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, cwd=ROOT, env=environment) for i in range(2)]
    answers: list[dict[str, Any]] = [json.loads(worker.communicate()[0]) for worker in workers]
    exporting = json.loads(subprocess.run([*command, "export"], capture_output=True, cwd=ROOT, env=environment, check=True).stdout)
    median_ms = float(np.median([answer["median_ms"] for answer in answers]))
    return {
        "recipes": sum(answer["recipes"] for answer in answers),
        "pricing_seconds": max(answer["seconds"] for answer in answers),
        "median_ms": median_ms,
        "p90_ms": max(answer["p90_ms"] for answer in answers),
        "export_and_measure_ms": exporting["median_ms"],
        "times_cheaper": exporting["median_ms"] / median_ms,
    }


def checks(rows: Sequence[Row]) -> list[Check]:
    """One check per figure of "Must show"."""
    cell = {row["cell"]: row for row in rows}

    def figure(name: str, key: str) -> float | None:
        return cell.get(name, {}).get(key)

    listed: list[Check] = []
    limits = {"int8": ((0.93, 4.5), (0.96, 3.7)), "fp32": ((0.85, 6.0), (0.92, 5.0))}
    for precision, ((share, error), (goal_share, goal_error)) in limits.items():
        name, line = f"accuracy cpu-ort-1t {precision}", f"hardware-models 1 {precision}"
        within, mean, rank = (figure(name, key) for key in ("within_10_percent", "mean_error_percent", "spearman"))
        listed += [
            Check(f"{line} within 10%", within, f">= {share}"),
            Check(f"{line} within 10%", within, f">= {goal_share}", "goal"),
            Check(f"{line} mean error %", mean, f"<= {error}"),
            Check(f"{line} mean error %", mean, f"<= {goal_error}", "goal"),
            Check(f"{line} Spearman", rank, ">= 0.99"),
            Check(f"{line} Spearman", rank, ">= 0.995", "goal"),
            Check(f"{line} interval covers", figure(name, "interval_covers"), ">= 0.85"),
            Check(f"{line} interval covers", figure(name, "interval_covers"), "<= 0.95"),
            Check(f"{line} truth repeatable", figure(name, "repeatable"), ">= 0.7"),
        ]
    listed.append(Check("hardware-models 1 families", figure("truth cpu-ort-1t", "families"), ">= 12"))
    for target in TARGETS[1:]:
        for precision in PRECISIONS:
            within = figure(f"accuracy {target} {precision}", "within_10_percent")
            line = f"hardware-models 2 {target} {precision} within 10%"
            listed += [Check(line, within, ">= 0.8"), Check(line, within, ">= 0.9", "goal")]
            ratio = figure(f"few-shot {target} {precision}", "ratio_to_full")
            listed.append(Check(f"hardware-models 3 few-shot {target} {precision}", ratio, "<= 1.5"))
    for precision in PRECISIONS:
        seconds = figure(f"accuracy cpu-ort-1t {precision}", "calibration_seconds")
        listed.append(Check(f"hardware-models 3 calibration seconds {precision}", seconds, "<= 300"))
        points = sum(f"curve cpu-ort-1t {precision} {count:03d}" in cell for count in CURVE)
        listed.append(Check(f"hardware-models 3 learning curve points {precision}", points, f">= {len(CURVE)}"))
    listed += [
        Check("hardware-models 4 median ms", figure("pricing", "median_ms"), "< 10"),
        Check("hardware-models 4 recipes", figure("pricing", "recipes"), ">= 10000"),
        Check("hardware-models 4 seconds for 10,000 on 2 cores", figure("pricing", "pricing_seconds"), "< 60"),
        Check("hardware-models 4 times cheaper", figure("pricing", "times_cheaper"), ">= 20"),
        Check("hardware-models 5 variants", figure("ranking", "variants"), ">= 200"),
        Check("hardware-models 5 Spearman", figure("ranking", "spearman"), ">= 0.97"),
        Check("hardware-models 5 hypervolume kept", figure("ranking", "hypervolume_kept"), ">= 0.95"),
    ]
    return listed + [test_check(rows, line, node) for line, node in TESTS.items()]


if __name__ == "__main__":
    opened = Results.open(NAME)
    judge(opened)
    opened.write(checks(opened.rows))
    print(Path(FOLDER), "judged")
