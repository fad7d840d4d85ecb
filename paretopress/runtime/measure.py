"""Latency in the target runtime, with its doubt (contracts 3 and 4). Needs onnxruntime and numpy, nothing else.

A round opens a new session for every model and lets the models take turns (A B A B ...), so that a slow moment of the machine
hits all of them; rounds are spread in time. A round gives a median per model, the rounds together a value and a 95%
interval. The reference's drift over the rounds tells whether the machine was quiet.

A user's own check: ``python -m paretopress.runtime.measure model.onnx --threads 1 --rounds 3``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paretopress.runtime.session import ModelFile, RuntimeModelError, input_spec, open_session, random_input, run_classifier

__all__ = ["LatencyMeasurement", "RuntimeModelError", "measure_latency", "run_classifier", "time_round"]

NOISY_DRIFT_PERCENT = 5.0
MIN_ROUNDS = 3
MAX_REPEATS = 2
RUNS_PER_TURN = 8
LOW_QUANTILE = 0.1
BETWEEN_PROCESSES = 0.02
"""The rounds of one process agree better than two processes do, whose memory lies elsewhere: 1 to 2% on a quiet machine."""

# Two-sided 95% quantiles of Student's t for 1 to 20 degrees of freedom.
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
         2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip


@dataclass(frozen=True)
class LatencyMeasurement:
    """Milliseconds of one run of a model at batch size ``batch``.

    Attributes:
        value_ms: median of the rounds' medians.
        spread_ms: half width of the 95% t-interval over the rounds, at least half the interquartile range within a round and 2%.
        upper_bound_ms: ``value_ms + spread_ms``; what a limit is compared with.
        low_quantile_ms: the 10% quantile of the quietest round.
        round_medians_ms: one per round, in time order.
        drift_percent: how far the reference's round medians lie apart, in percent of their median.
        noisy: whether even the quietest repeat drifted by more than 5%.
        repeats: how often all rounds were done again because of noise.
    """

    value_ms: float
    spread_ms: float
    upper_bound_ms: float
    low_quantile_ms: float
    rounds: int
    round_medians_ms: tuple[float, ...]
    runs_per_round: int
    threads: int
    batch: int
    drift_percent: float
    noisy: bool
    repeats: int


Times = npt.NDArray[np.float64]


def measure_latency(
    models: Mapping[str, ModelFile],
    threads: int,
    rounds: int = MIN_ROUNDS,
    runs_per_round: int | None = None,
    batch: int = 1,
    reference: str | None = None,
    pause_s: float = 1.0,
    optimization: str = "all",
    max_repeats: int = MAX_REPEATS,
) -> dict[str, LatencyMeasurement]:
    """Measure models against each other, in ``rounds`` rounds that are ``pause_s`` apart.

    ``runs_per_round`` are the timed runs of a model in a round; None takes as many as fill about 0.4 s, 24 to 400.
    The drift of ``reference`` (by default the first model) judges the machine; noise repeats all up to ``max_repeats`` times.

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
    attempts: list[tuple[float, list[dict[str, Times]]]] = []
    while len(attempts) <= max_repeats:
        taken = _all_rounds(models, threads, rounds, runs_per_round, batch, pause_s, optimization)
        attempts.append((_drift_percent([one[reference] for one in taken]), taken))
        if attempts[-1][0] <= NOISY_DRIFT_PERCENT:
            break
    drift, taken = min(attempts, key=lambda attempt: attempt[0])
    return {name: _summary([one[name] for one in taken], threads, batch, drift, len(attempts) - 1) for name in models}


def time_round(
    models: Mapping[str, ModelFile],
    threads: int,
    runs_per_round: int | None = None,
    batch: int = 1,
    optimization: str = "all",
    fill_s: float = 0.4,
) -> dict[str, Times]:
    """One round: milliseconds of every timed run per model, each model in a new session, taking turns.

    Every turn starts with an untimed run, since the others' turns have emptied the caches.
    """
    with pinned(threads):
        turns = {name: _Turn(model, threads, batch, optimization, runs_per_round, fill_s) for name, model in models.items()}
        waiting = dict(turns)
        while waiting:
            for turn in waiting.values():
                turn.take()
            waiting = {name: turn for name, turn in waiting.items() if not turn.done}
    return {name: np.asarray(turn.times_ms) for name, turn in turns.items()}


class _Turn:
    """One model's session in a round, with the times it has gathered."""

    def __init__(self, model: ModelFile, threads: int, batch: int, optimization: str, runs: int | None, fill_s: float) -> None:
        self._session = open_session(model, threads, optimization)
        spec = input_spec(self._session)
        self._feed = {spec.name: random_input(spec, batch)}
        self.times_ms: list[float] = []
        warm_up_ms = min(self._run_ms() for _ in range(4))
        self._runs = runs or int(min(max(fill_s * 1000 / warm_up_ms, 24), 400))

    @property
    def done(self) -> bool:
        return len(self.times_ms) >= self._runs

    def _run_ms(self) -> float:
        start = time.perf_counter_ns()
        self._session.run(None, self._feed)
        return (time.perf_counter_ns() - start) / 1e6

    def take(self) -> None:
        self._run_ms()
        for _ in range(min(RUNS_PER_TURN, self._runs - len(self.times_ms))):
            self.times_ms.append(self._run_ms())


def _all_rounds(
    models: Mapping[str, ModelFile],
    threads: int,
    rounds: int,
    runs: int | None,
    batch: int,
    pause_s: float,
    optimization: str,
) -> list[dict[str, Times]]:
    taken = []
    names = list(models)
    for index in range(rounds):
        if index:
            time.sleep(pause_s)
        order = names if index % 2 == 0 else names[::-1]
        taken.append(time_round({name: models[name] for name in order}, threads, runs, batch, optimization))
    return taken


def _summary(rounds: Sequence[Times], threads: int, batch: int, drift: float, repeats: int) -> LatencyMeasurement:
    medians = [float(np.median(times)) for times in rounds]
    value = statistics.median(medians)
    resolution = statistics.median(float(np.subtract(*np.quantile(times, (0.75, 0.25)))) for times in rounds) / 2
    factor = _T_95[min(len(rounds) - 1, len(_T_95)) - 1]
    spread = max(factor * statistics.stdev(medians) / len(rounds) ** 0.5, resolution, BETWEEN_PROCESSES * value)
    return LatencyMeasurement(
        value_ms=value,
        spread_ms=spread,
        upper_bound_ms=value + spread,
        low_quantile_ms=min(float(np.quantile(times, LOW_QUANTILE)) for times in rounds),
        rounds=len(rounds),
        round_medians_ms=tuple(medians),
        runs_per_round=min(len(times) for times in rounds),
        threads=threads,
        batch=batch,
        drift_percent=drift,
        noisy=drift > NOISY_DRIFT_PERCENT,
        repeats=repeats,
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
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS)
    parser.add_argument("--runs-per-round", type=int, default=None)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pause-s", type=float, default=1.0)
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
        )
    except RuntimeModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({name: asdict(result) for name, result in measured.items()}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
