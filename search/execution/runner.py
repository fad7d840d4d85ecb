"""Trials of one search through Ray Tune, and exclusive calls while none of them can run. Needs `runtime.ray_runtime`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.error import TuneError
from ray.tune.stopper import Stopper
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from search.errors import ClusterError, RuntimeLostError, SearchCancelledError
from search.execution.cluster import Claim, claim_of, gpu_claim, own_node
from search.execution.driver import DriverBound, TrialDriver
from search.execution.file_server import FileSource, start_file_server
from search.execution.node_watch import NodeWatch, Patience
from search.execution.runtime import RunnerSettings
from search.execution.scheduler import DIED, RungScheduler
from search.execution.searcher import DriverSearcher
from search.execution.trial import MovableEvaluator, RungEvaluator, TrialActor
from search.execution.word import Ear

_STOP_POLL_S = 0.5
_LEAST_WAIT_S = 10.0
"""Ray takes seconds to give away what trials have just let go of."""
Result = TypeVar("Result")


@contextmanager
def _lost_runtime() -> Iterator[None]:
    """Tell a runtime that went away (killed, out of memory, a broken cluster) from errors of what it ran."""
    try:
        yield
    except RayTaskError as error:
        # As it was raised: Ray's own text is a traceback.
        raise error.cause if isinstance(error.cause, Exception) else error from None
    except (RayError, TuneError, ConnectionError) as error:
        raise RuntimeLostError(f"Ray went away: {type(error).__name__}: {error}") from error


class _DriverStopper(DriverBound, Stopper):  # type: ignore[misc]
    """Ends a round of Tune: for the driver, for want of patience, or because trials have to claim something else."""

    def __init__(self, driver: TrialDriver, watch: NodeWatch | None, claim: Claim) -> None:
        self._driver, self._watch, self._claim, self._ear = driver, watch, claim, Ear()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        word = self._ear.new_word()
        if word is not None:
            self._driver.heard(word)
        ends = self._watch is not None and (self._watch.gave_up != "" or self._watch.claim != self._claim)
        return self._driver.should_stop() or ends


def run_trials(driver: TrialDriver, evaluator: RungEvaluator, settings: RunnerSettings) -> None:
    """Run the driver's trials until it proposes no more or wants to stop.

    Args:
        evaluator: in a cluster, a `MovableEvaluator`.

    Raises:
        RuntimeLostError: Ray went away.
        ClusterError: the cluster had no place for a trial for too long.
    """
    only_cuda = settings.train_device == "cuda"
    if settings.address is None:
        claim = Claim(settings.threads_per_trial, gpu_claim(settings.train_device, settings.parallel_trials))
        _run(driver, tune.with_parameters(TrialActor, evaluator=evaluator, only_cuda=only_cuda), settings, claim)
        return
    movable = cast("MovableEvaluator[Any]", evaluator)
    with _lost_runtime():
        watch = NodeWatch(driver, lambda: _claim_now(settings), settings.wait_limit_s)
        source = start_file_server(movable.files)
        trainable = tune.with_parameters(TrialActor, evaluator=movable, source=source, only_cuda=only_cuda)
        _run(driver, trainable, settings, watch.claim, watch)
        _tell_traffic(driver, source)


def _claim_now(settings: RunnerSettings) -> Claim:
    return claim_of(settings.threads_per_trial, gpu_claim(settings.train_device, settings.parallel_trials))


def _run(driver: TrialDriver, trainable: Any, settings: RunnerSettings, claim: Claim, watch: NodeWatch | None = None) -> None:
    if claim.gpus:
        driver.note(f"candidates are trained on GPUs, {claim.gpus:g} for each trial", {"gpus_per_trial": claim.gpus})
    searcher = DriverSearcher(driver)
    scheduler = RungScheduler(driver, searcher, watch)
    while True:
        stopper = _DriverStopper(driver, watch, claim)
        with _lost_runtime():
            _tuner(tune.with_resources(trainable, claim.resources), searcher, scheduler, stopper, settings, watch).fit()
        if watch and watch.gave_up:
            raise ClusterError(
                f"{watch.gave_up}. Give the cluster more room, or let trials take fewer CPUs (PARETOPRESS_TRIAL_CPUS)"
            )
        if driver.should_stop():
            break
        if watch and watch.claim != claim:
            claim = watch.claim
            scheduler.take_back()
        # A process that died after Tune had been told that there are no more trials is handed out in another round.
        elif not searcher.again:
            break
    for plan in searcher.again:
        driver.failed(plan.number, plan.rung, DIED)


def _tuner(
    trainable: Any,
    searcher: DriverSearcher,
    scheduler: RungScheduler,
    stopper: Stopper,
    settings: RunnerSettings,
    watch: NodeWatch | None,
) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=settings.parallel_trials,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(settings.storage_path.resolve()),
            stop=stopper,
            verbose=0,
            callbacks=[watch] if watch else None,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def _tell_traffic(driver: TrialDriver, source: FileSource) -> None:
    """What was sent to which node."""
    for node_id, facts in source.server.traffic().items():
        sent, received = facts["sent_bytes"] / 1e6, facts["received_bytes"] / 1e6
        driver.note(f"files: {sent:.1f} MB sent to node {node_id[:8]}, {received:.1f} MB back", {"node": node_id, **facts})


def run_quietly(
    function: Callable[..., Result],
    settings: RunnerSettings,
    *arguments: Any,
    should_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda _: None,
    ends_at: float = math.inf,
    limit_s: Callable[[], float] | None = None,
    **named: Any,
) -> Result:
    """Call a function while no trial can run on the worker's own machine: it takes all CPUs there (contract 4).

    A fresh process imports the function's module first, so a function of a light module starts seconds earlier.

    Args:
        should_stop: asked twice a second; the process that runs the function is then ended, with what it has started.
        tell: takes a sentence on what is waited for.
        ends_at: of `time.monotonic`: how long the machine is waited for, beside the settings' limit.
        limit_s: asked once the machine is there; handed to the function, by this name.

    Raises:
        RuntimeLostError: Ray, or the process that ran the function, went away.
        SearchCancelledError: ``should_stop`` said so.
        ClusterError: others kept the CPUs of this machine for too long.
    """
    with _lost_runtime(), _machine(settings, should_stop, tell, ends_at) as options:
        if limit_s:
            named["limit_s"] = limit_s()
        reference = ray.remote(max_retries=0, **options)(function).remote(*arguments, **named)
        while not ray.wait([reference], timeout=_STOP_POLL_S)[0]:
            if should_stop():
                ray.cancel(reference, force=True)
                raise SearchCancelledError("cancelled on request")
        result: Result = ray.get(reference)
    return result


@contextmanager
def _machine(
    settings: RunnerSettings, should_stop: Callable[[], bool], tell: Callable[[str], None], ends_at: float
) -> Iterator[dict[str, Any]]:
    """Options of a call that has the worker's machine for itself, as far as Ray gives it away."""
    if settings.address is None:
        yield {"num_cpus": settings.cpus}
        return
    node = own_node()
    cpus = {"CPU": node.cpus} if node.cpus else {}
    group = placement_group([{f"node:{node.address}": 0.001, **cpus}])
    wait_limit_s = min(settings.wait_limit_s, max(ends_at - time.monotonic(), _LEAST_WAIT_S))
    try:
        patience = Patience(f"measuring has waited for all of node {node}", wait_limit_s, tell)
        while not group.wait(_STOP_POLL_S):
            if should_stop():
                raise SearchCancelledError("cancelled on request")
            if patience.is_over():
                raise ClusterError(f"{patience.words}. Others use the machine of this worker: latencies need it alone")
        yield {"num_cpus": node.cpus, "scheduling_strategy": PlacementGroupSchedulingStrategy(group)}
    finally:
        remove_placement_group(group)
