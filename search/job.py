"""The way of a request: `run_search` reads from top to bottom what happens to one search."""

from __future__ import annotations

import gc
import os
import shutil
import time

import torch

from search.conclusion import conclude, run_finals
from search.environment import SearchEnvironment, SearchOutcome
from search.errors import SearchCancelledError
from search.execution.runner import ray_runtime, run_trials
from search.protocols import CandidateRecord, Event
from search.setup import find_sensitivity, make_driver, prepare
from search.spec import SearchSpec
from search.tracking.ended import log_ended, remember_untracked
from search.tracking.outbox import Outbox

__all__ = ["SearchEnvironment", "SearchOutcome", "run_search"]


def run_search(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
    """Run (or resume) one search to its end.

    Raises:
        BaselineError: the original does not behave on this data as stated; the message names the preprocessing.
        SearchError: anything else that is the request's fault; the message says what to do.
    """
    started = time.monotonic()
    spec.validated()
    environment.work_dir.mkdir(parents=True, exist_ok=True)
    outbox = Outbox(environment.tracker, environment.search_name)
    outbox.start({"spec": spec.to_json(), "target": spec.target})

    try:
        return _run(spec, environment, outbox, started)
    except SearchCancelledError as error:
        outcome = SearchOutcome("CANCELLED", f"{error}; finished candidates are kept")
        remember_untracked(environment.store, log_ended(outbox, (), environment.blobs, outcome))
        return outcome
    finally:
        gc.unfreeze()


def _run(spec: SearchSpec, environment: SearchEnvironment, outbox: Outbox, started: float) -> SearchOutcome:
    store = environment.store
    store.append(Event("phase", "baseline: accuracy of the original on the given data, latency on the target"))
    torch.set_num_threads(environment.cpus)
    setup = prepare(spec, environment)
    store.save_candidate(setup.baseline, [_baseline_event(setup.baseline)])
    # Thousands of small graphs are priced from here on; what already stands is not looked through again for each of them.
    gc.collect()
    gc.freeze()
    outbox.candidate(setup.baseline)

    store.append(Event("phase", "sensitivity: what each single compression costs and saves"))
    sensitivity = find_sensitivity(setup, environment)

    store.append(Event("phase", f"search: up to {spec.effort.max_trials} candidates"))
    driver = make_driver(setup, sensitivity, environment, outbox, started)
    driver.restore(store.candidates())
    store.record_process_group(os.getpgrp())
    with ray_runtime(setup.runner):
        run_trials(driver, setup.evaluator, setup.runner)
        if driver.cancelled:
            raise SearchCancelledError("cancelled on request")
        store.append(Event("phase", "finalists: exported, read on the selection split, measured on the target"))
        finals = run_finals(setup, environment)

    outcome = conclude(setup, environment, outbox, finals, time.monotonic() - started)
    shutil.rmtree(setup.evaluator.files.checkpoints, ignore_errors=True)
    return outcome


def _baseline_event(record: CandidateRecord) -> Event:
    latency = record.measurements["latency_ms"]
    message = f"original: accuracy {record.accuracy['validation']:.4f}, {latency.value:.3f} ms {latency.source}"
    return Event("baseline", message, {"candidate": record.candidate_id})
