"""Latency in the target runtime, with its doubt (contracts 3 and 4). Needs onnxruntime and numpy, nothing else.

A round opens a new session for every model and lets the models take turns (A B A B ...), so that what slows the machine for a
while slows all of them. It does not slow them alike: a neighbour on the other half of a core took 25% more from a float network and
60% more from the same one in int8, for three quarters of the time. So models are compared in their quiet runs, the quickest 1% of
all: their ratio to the reference's, times what the reference takes in its quietest turns, is a model's latency. A machine that is
slow all the time slows the quiet runs, too, and that cancels. Rounds are spread in time, and are added until the 95% interval of
every model is within 3%, or the time for it is up.

A user's own check: ``python -m paretopress.runtime.measure model.onnx --threads 1``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paretopress.runtime.rounds import LEAST_S, LIMIT_S, MAX_ROUNDS, MIN_ROUNDS, ROUNDS
from paretopress.runtime.session import ModelFile, RuntimeModelError, input_spec, open_session, random_input, run_classifier

__all__ = ["LatencyMeasurement", "RuntimeModelError", "measure_latency", "run_classifier", "time_round"]

SETTLED = 0.03
"""Rounds are added until the half width of every 95% interval is at most this share of its value."""
NOISY = 0.05
TURNS = 8
QUIET_SHARE = 0.01
"""Of a model's runs: the quickest, which nothing disturbed. The very quickest alone would depend on how many there are."""
_QUIET_TURNS = 3
_RESAMPLES = 100
LOW_QUANTILE = 0.1
BETWEEN_PROCESSES = 0.02
"""The rounds of one process agree better than two processes do, whose memory lies elsewhere: 1 to 2% on a quiet machine."""

# Two-sided 95% quantiles of Student's t for 1 to 20 degrees of freedom.
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
         2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip


Times = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LatencyMeasurement:
    """Milliseconds of one run of a model at batch size ``batch``.

    Attributes:
        value_ms: ``ratio`` times the reference's latency in its quietest turns.
        spread_ms: half width of the 95% interval of both factors together, at least 2% of the value.
        upper_bound_ms: ``value_ms + spread_ms``; what a limit is compared with.
        low_quantile_ms: the 10% quantile of the quietest round.
        ratio: how many times as long as the reference it takes, in quiet runs; 1 for the reference.
        ratio_spread: half width of its 95% interval, as a share of it.
        round_medians_ms: one per round, in time order, as the clock had it.
        drift_percent: how far the reference's round medians lie apart, in percent of their median.
        noisy: whether the interval was still wider than 5% when the time was up.
    """

    value_ms: float
    spread_ms: float
    upper_bound_ms: float
    low_quantile_ms: float
    ratio: float
    ratio_spread: float
    rounds: int
    round_medians_ms: tuple[float, ...]
    runs_per_round: int
    threads: int
    batch: int
    drift_percent: float
    noisy: bool


def measure_latency(
    models: Mapping[str, ModelFile],
    threads: int,
    rounds: int = ROUNDS,
    runs_per_round: int | None = None,
    batch: int = 1,
    reference: str | None = None,
    pause_s: float = 0.5,
    optimization: str = "all",
    limit_s: float = LIMIT_S,
) -> dict[str, LatencyMeasurement]:
    """Measure models against each other, in at least ``rounds`` rounds that are ``pause_s`` apart.

    ``runs_per_round`` are the timed runs of a model in a round; None takes as many as fill about 0.4 s, 24 to 400.
    More rounds follow for 12 s, then while an interval is wider than 3%, and never for more than ``limit_s`` seconds.

    Raises:
        RuntimeModelError: fewer than 3 rounds, an unknown reference, no model, or one that cannot be run.
    """
    if not models:
        raise RuntimeModelError("no model to measure")
    if rounds < MIN_ROUNDS:
        raise RuntimeModelError(f"rounds must be at least {MIN_ROUNDS}, got {rounds}: fewer give no interval")
    reference = next(iter(models)) if reference is None else reference
    if reference not in models:
        raise RuntimeModelError(f"the reference {reference!r} is none of the models {sorted(models)}")
    started, taken, names = time.monotonic(), list[dict[str, Times]](), list(models)
    while len(taken) < rounds or (_goes_on(len(taken), started, limit_s) and not _settled(taken, reference, started)):
        if taken:
            time.sleep(pause_s)
        order = names if len(taken) % 2 == 0 else names[::-1]
        taken.append(time_round({name: models[name] for name in order}, threads, runs_per_round, batch, optimization))
    found = _resampled(taken, reference)
    return {name: _summary(taken, name, found[name], reference, threads, batch) for name in models}


def _goes_on(rounds: int, started: float, limit_s: float) -> bool:
    return rounds < MAX_ROUNDS and time.monotonic() - started < limit_s


def _settled(taken: Sequence[Mapping[str, Times]], reference: str, started: float) -> bool:
    if time.monotonic() - started < LEAST_S:
        return False
    return all(_doubt(found.values, len(taken)) <= SETTLED for found in _resampled(taken, reference).values())


def time_round(
    models: Mapping[str, ModelFile],
    threads: int,
    runs_per_round: int | None = None,
    batch: int = 1,
    optimization: str = "all",
    fill_s: float = 0.4,
) -> dict[str, Times]:
    """One round, as milliseconds ``(turns, runs of a turn)`` per model: in as many turns for each, of about the same length.

    Every turn starts with an untimed run, since the others' turns have emptied the caches.
    """
    with pinned(threads):
        timers = {name: _Timer(model, threads, batch, optimization, runs_per_round, fill_s) for name, model in models.items()}
        turns = [{name: timer.turn() for name, timer in timers.items()} for _ in range(min(TURNS, runs_per_round or TURNS))]
    return {name: np.asarray([turn[name] for turn in turns]) for name in models}


class _Timer:
    """One model's session in a round."""

    def __init__(self, model: ModelFile, threads: int, batch: int, optimization: str, runs: int | None, fill_s: float) -> None:
        self._session = open_session(model, threads, optimization)
        spec = input_spec(self._session)
        self._feed = {spec.name: random_input(spec, batch)}
        warm_up_ms = min(self._run_ms() for _ in range(4))
        self._runs = math.ceil((runs or min(max(fill_s * 1000 / warm_up_ms, 24), 400)) / TURNS)

    def _run_ms(self) -> float:
        start = time.perf_counter_ns()
        self._session.run(None, self._feed)
        return (time.perf_counter_ns() - start) / 1e6

    def turn(self) -> list[float]:
        self._run_ms()
        return [self._run_ms() for _ in range(self._runs)]


def _resamples(rounds: int) -> Counts:
    """How often each round counts ``(1 + resamples, rounds)``: once in the measurement itself, at random in the others."""
    drawn = np.random.default_rng(0).multinomial(rounds, np.full(rounds, 1 / rounds), size=_RESAMPLES)
    return np.concatenate([np.ones((1, rounds), np.int64), drawn])


@dataclass(frozen=True)
class _Resampled:
    """A model in the measurement itself, the first value, and in every resample of its rounds; see `LatencyMeasurement`."""

    ratios: Times
    values: Times


def _resampled(rounds: Sequence[Mapping[str, Times]], reference: str) -> dict[str, _Resampled]:
    """All models of the rounds."""
    counts = _resamples(len(rounds))
    turns_ms = _low([np.median(one[reference], axis=1) for one in rounds], counts, np.full(len(counts), _QUIET_TURNS))
    runs_ms = {name: _quiet_runs_ms([one[name].ravel() for one in rounds], counts) for name in rounds[0]}
    ratios = {name: quiet / runs_ms[reference] for name, quiet in runs_ms.items()}
    return {name: _Resampled(ratio, turns_ms * ratio) for name, ratio in ratios.items()}


def _quiet_runs_ms(rounds: Sequence[Times], counts: Counts) -> Times:
    """What ends the quickest share of all runs, in every resample."""
    return _low(rounds, counts, QUIET_SHARE * counts @ [len(one) for one in rounds])


def _low(rounds: Sequence[Times], counts: Counts, below: npt.NDArray[np.float64]) -> Times:
    """In every resample, the value that ends the lowest ``below`` of all values of its rounds."""
    values, of_round = np.concatenate(rounds), np.repeat(np.arange(len(rounds)), [len(one) for one in rounds])
    order = np.argsort(values)
    reached = np.cumsum(counts[:, of_round[order]], axis=1) >= below[:, None]
    return np.asarray(values[order][reached.argmax(axis=1)])


def _doubt(resampled: Times, rounds: int) -> float:
    """Half width of the 95% interval, as a share of the value: bootstrap over rounds (Efron 1979), Student's t for few."""
    factor = _T_95[min(rounds - 1, len(_T_95)) - 1] * (rounds / (rounds - 1)) ** 0.5
    return float(factor * np.std(np.log(resampled[1:])))


def _summary(
    rounds: Sequence[Mapping[str, Times]], name: str, found: _Resampled, reference: str, threads: int, batch: int
) -> LatencyMeasurement:
    value, doubt = float(found.values[0]), _doubt(found.values, len(rounds))
    spread = max(doubt, BETWEEN_PROCESSES) * value
    return LatencyMeasurement(
        value_ms=value,
        spread_ms=spread,
        upper_bound_ms=value + spread,
        low_quantile_ms=min(float(np.quantile(one[name], LOW_QUANTILE)) for one in rounds),
        ratio=float(found.ratios[0]),
        ratio_spread=_doubt(found.ratios, len(rounds)),
        rounds=len(rounds),
        round_medians_ms=tuple(float(np.median(one[name])) for one in rounds),
        runs_per_round=min(one[name].size for one in rounds),
        threads=threads,
        batch=batch,
        drift_percent=_drift_percent([one[reference] for one in rounds]),
        noisy=doubt > NOISY,
    )


def _drift_percent(rounds: Sequence[Times]) -> float:
    medians = [float(np.median(times)) for times in rounds]
    return 100 * (max(medians) - min(medians)) / statistics.median(medians)


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep this thread, and the sessions' threads started from it, on ``threads`` processors where the system allows it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    # The last ones: the first processor serves most interrupts.
    chosen = set(sorted(allowed)[-threads:])
    try:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, chosen)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, allowed)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m paretopress.runtime.measure", description="Measure the latency of ONNX models."
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="ONNX files; the first one is the reference")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="at least; more follow for 12 s, then while an interval is over 3%%"
    )
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="no further round begins after so many seconds")
    parser.add_argument("--runs-per-round", type=int, default=None)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pause-s", type=float, default=0.5)
    parser.add_argument("--optimization", default="all", choices=["all", "extended", "basic", "none"])
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the files named on the command line and print one JSON object, keyed by file; 2 when one cannot be run."""
    options = _parse(arguments)
    try:
        measured = measure_latency(
            {str(path): path for path in options.models},
            options.threads,
            options.rounds,
            options.runs_per_round,
            options.batch,
            pause_s=options.pause_s,
            optimization=options.optimization,
            limit_s=options.limit_s,
        )
    except RuntimeModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({name: asdict(result) for name, result in measured.items()}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
