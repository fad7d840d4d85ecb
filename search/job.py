"""The way of a request: `run_search` reads from top to bottom what happens to one search."""

from __future__ import annotations

import gc
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from search.attempts import ON_PURPOSE, supervised, unexpected
from search.clock import Clock, ClockedStore
from search.conclusion import Finals, conclude, known_baseline, run_finals
from search.driver import SearchDriver
from search.driving import make_driver
from search.environment import SearchEnvironment, SearchOutcome
from search.errors import ClusterError, OutsideError, SearchCancelledError, SearchError, TimeLimitError, UnexpectedError
from search.execution.runner import run_trials
from search.execution.runtime import ray_runtime
from search.limits import broken_limits
from search.plan import BASELINE as BASELINE_PHASE
from search.plan import FINALS, SENSITIVITY
from search.planning import Planner
from search.protocols import BASELINE, CandidateStore, Event, Progress
from search.reach import Reach
from search.setup import Setup, prepare, runner_settings
from search.spec import SearchSpec
from search.survey import find_sensitivity, reach_of, tell_places, tell_techniques
from search.tracking.described import search_parameters
from search.tracking.ended import log_ended, remember_untracked
from search.tracking.outbox import Outbox

_LOG = logging.getLogger("paretopress.search")

__all__ = ["SearchEnvironment", "SearchOutcome", "run_search"]


def run_search(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
    """Run (or resume) one search to its end.

    Raises:
        BaselineError: the original does not behave on this data as stated; the message names the preprocessing.
        SearchError: anything else that is the request's fault; the message says what to do.
    """
    spec.validated()
    environment.work_dir.mkdir(parents=True, exist_ok=True)
    outbox = Outbox(environment.tracker, environment.search_name)
    outbox.start(search_parameters(spec, environment.origin))
    clock = Clock(environment.store, spec.effort.max_wall_time_s, environment.began)
    store = ClockedStore(environment.store, clock)

    try:
        with store.noting():
            return _run(spec, replace(environment, store=store, began=clock.counts_from), outbox, clock)
    except SearchCancelledError as error:
        outcome = SearchOutcome("CANCELLED", f"{error}; finished candidates are kept")
        remember_untracked(environment.store, log_ended(outbox, (), environment.blobs, outcome))
        return outcome
    finally:
        gc.unfreeze()


def _run(spec: SearchSpec, environment: SearchEnvironment, outbox: Outbox, clock: Clock) -> SearchOutcome:
    store, began_s = environment.store, clock.spent_s
    torch.set_num_threads(environment.cpus)
    if environment.ray_address:
        with _goes_on("cluster"), ray_runtime(runner_settings(spec, environment)):
            pass  # what keeps us out is told before anything is computed
    with _phase(store, "baseline", "accuracy of the original on the given data, latency on the target"):
        setup = _in_time(lambda: prepare(spec, environment), spec, store, clock)
        store.save_candidate(setup.baseline, [_baseline_event(setup)])
    planner = Planner(spec.effort, setup.known, store, clock, began_s)
    planner.over(BASELINE_PHASE)
    # Thousands of small graphs are priced from here on; what already stands is not looked through again for each of them.
    gc.collect()
    gc.freeze()
    outbox.candidate(setup.baseline)

    outbox.start({**search_parameters(spec, environment.origin), "latencies": setup.latency_source})

    with _phase(store, "sensitivity", "what each single compression costs and saves"):
        sensitivity = find_sensitivity(setup, environment, clock.ends_at)
        tell_techniques(setup, sensitivity, store)
        tell_places(setup, sensitivity, environment, clock.ends_at)
        reach = reach_of(setup, sensitivity, environment, clock.ends_at)
        out_of_reach = _out_of_reach(setup, reach, store)
    planner.over(SENSITIVITY)
    if out_of_reach:
        with _goes_on("report"):
            return conclude(setup, environment, outbox, Finals(known_baseline(setup), (), {}), clock, out_of_reach)

    with _phase(store, "search", f"up to {spec.effort.max_trials} candidates"):
        driver = make_driver(setup, sensitivity, environment, outbox, clock, reach, planner)
        driver.restore(store.candidates())
        driver.require_time()
        store.record_process_group(os.getpgrp())
    with ray_runtime(setup.runner):
        with _goes_on("search"):
            _run_trials(driver, setup, store)
            driver.close()
            if driver.cancelled:
                raise SearchCancelledError("cancelled on request")
            planner.last_rung_over(driver.last_steps)
        measured = "measured on the target" if setup.target.attached else f"their latency is {setup.latency_source}"
        with _phase(store, "finalists", f"exported, read on the selection split, {measured}"):
            finals = run_finals(setup, environment, clock.ends_at)
        planner.finalists(len(finals.finalists))
        planner.over(FINALS)

    with _goes_on("report"):
        outcome = conclude(setup, environment, outbox, finals, clock)
    shutil.rmtree(setup.evaluator.files.checkpoints, ignore_errors=True)
    return outcome


def _run_trials(driver: SearchDriver, setup: Setup, store: CandidateStore) -> None:
    """A cluster without room for more trials ends them; what there is by then goes on to the finals."""
    try:
        run_trials(driver, setup.evaluator, setup.runner)
    except ClusterError as error:
        found = [r for r in store.candidates() if r.candidate_id != BASELINE and r.state != "failed"]
        if not found:
            raise
        words = f"the search ends with {len(found)} of {setup.spec.effort.max_trials} candidates"
        store.append(Event("warning", f"{error}. No more trials: {words}"))


@contextmanager
def _phase(store: CandidateStore, name: str, words: str) -> Iterator[None]:
    """A phase begins, is announced, and gives its name to what goes wrong in it."""
    store.append(Event("phase", f"{name}: {words}"))
    store.show(Progress(name, words))
    with _goes_on(name):
        yield


@contextmanager
def _goes_on(name: str) -> Iterator[None]:
    """What nobody has thought of ends the search with the phase, the kind and the first line; the rest is for the log."""
    try:
        yield
    except (OutsideError, *ON_PURPOSE):
        raise
    except Exception as error:
        _LOG.exception("unexpected in the phase %s", name)
        raise UnexpectedError(unexpected(name, error)) from error


def _in_time(prepare: Callable[[], Setup], spec: SearchSpec, store: CandidateStore, clock: Clock) -> Setup:
    """What stands before the first trial; no more than the whole wall time, unless there are candidates to answer with."""
    limit_s = max(clock.left_s, 0.0) if len(store.candidates()) <= 1 else math.inf
    try:
        return supervised(prepare, store.should_stop, limit_s)
    except TimeLimitError as error:
        limit = f"the wall time of {spec.effort.max_wall_time_s:.0f} s was up before the first candidate"
        message = f"{limit}: reading the original's accuracy and measuring it took all of it. Allow more time, or give fewer images"
        raise SearchError(message) from error


def _out_of_reach(setup: Setup, reach: Reach, store: CandidateStore) -> str:
    """Why no trial is worth its time; empty where there are candidates, or the original itself meets the budget."""
    broken = broken_limits(known_baseline(setup), setup.spec.budget)
    if len(store.candidates()) > 1 or not broken:
        return ""
    # A limit that the original meets is in reach, whatever the predictor thinks of it.
    return Reach({name: value for name, value in reach.lowest.items() if name in broken}).sentence(setup.spec.budget)


def _baseline_event(setup: Setup) -> Event:
    accuracy, latency_ms = setup.baseline.accuracy["validation"], setup.baseline.measurements["latency_ms"].value
    message = f"original: accuracy {accuracy:.4f}, {latency_ms:.3f} ms {setup.latency_source}"
    return Event("baseline", message, {"candidate": setup.baseline.candidate_id})
