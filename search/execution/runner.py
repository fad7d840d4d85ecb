"""Ray for one search: an embedded runtime or a cluster, trials through Tune, and exclusive calls under ``quiet``."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.error import TuneError
from ray.tune.stopper import Stopper

from search.errors import RuntimeLostError, SearchCancelledError
from search.execution.driver import DriverBound, TrialDriver
from search.execution.scheduler import DIED, RungScheduler
from search.execution.searcher import DriverSearcher
from search.execution.trial import RungEvaluator, TrialActor

QUIET = "quiet"
_STOP_POLL_S = 0.5
_OBJECT_STORE_BYTES = 256 * 2**20
Result = TypeVar("Result")


@dataclass(frozen=True)
class RunnerSettings:
    """How Ray runs here.

    Attributes:
        address: of a cluster; None starts an embedded runtime that ends with the search.
        cpus: of the embedded runtime.
        parallel_trials: one gives a repeatable search (contract 7); more share the CPUs.
        storage_path: where Tune keeps its own files.
    """

    cpus: int
    storage_path: Path
    address: str | None = None
    parallel_trials: int = 1

    @property
    def threads_per_trial(self) -> int:
        """CPUs that one trial may use."""
        return max(1, self.cpus // self.parallel_trials)


@contextmanager
def _own_signal_handler() -> Iterator[None]:
    """`ray.init` makes SIGTERM raise SystemExit in the middle of whatever runs; the caller's handler is put back."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def ray_runtime(settings: RunnerSettings) -> Iterator[None]:
    """Connect to the cluster, or start an embedded runtime in the caller's process group and end it afterwards.

    Raises:
        RuntimeLostError: it did not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "600")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Tune's own state is never restored (contract 6), so nobody has to hear that it was not saved.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    # Unix sockets allow about 100 characters, so the runtime's folder cannot lie under the data folder.
    folder = None if settings.address else tempfile.mkdtemp(prefix="pp-ray-", dir="/tmp")
    own = (
        {}
        if settings.address
        else {
            "num_cpus": settings.cpus,
            "num_gpus": 0,
            "resources": {QUIET: 1},
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": folder,
        }
    )
    try:
        with _own_signal_handler(), _failed_start():
            ray.init(address=settings.address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True, **own)
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _failed_start() -> Iterator[None]:
    """Ray raises bare exceptions when one of its processes is killed while it starts."""
    try:
        yield
    except Exception as error:
        raise RuntimeLostError(f"Ray did not start: {type(error).__name__}: {error}") from error


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
    def __init__(self, driver: TrialDriver) -> None:
        self._driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._driver.should_stop()


def run_trials(driver: TrialDriver, evaluator: RungEvaluator, settings: RunnerSettings) -> None:
    """Run the driver's trials until it proposes no more or wants to stop. Needs `ray_runtime`.

    Raises:
        RuntimeLostError: Ray went away.
    """
    searcher = DriverSearcher(driver)
    trainable = tune.with_parameters(TrialActor, evaluator=evaluator)
    trainable = tune.with_resources(trainable, {"cpu": settings.threads_per_trial})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=RungScheduler(driver, searcher),
            num_samples=-1,
            max_concurrent_trials=settings.parallel_trials,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(settings.storage_path.resolve()),
            stop=_DriverStopper(driver),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    with _lost_runtime():
        tuner.fit()
    for plan in searcher.again:  # Tune had been told that there are no more
        driver.failed(plan.number, 0, DIED)


def run_quietly(
    function: Callable[..., Result],
    settings: RunnerSettings,
    *arguments: Any,
    should_stop: Callable[[], bool] = lambda: False,
    **named: Any,
) -> Result:
    """Call a function while no trial can run: it takes all CPUs and the ``quiet`` token (contract 4).

    A fresh process imports the function's module first, so a function of a light module starts seconds earlier.

    Args:
        should_stop: asked twice a second; the process that runs the function is then ended, with what it has started.

    Raises:
        RuntimeLostError: Ray, or the process that ran the function, went away.
        SearchCancelledError: ``should_stop`` said so.
    """
    remote = ray.remote(num_cpus=settings.cpus, resources={QUIET: 1}, max_retries=0)(function)
    with _lost_runtime():
        reference = remote.remote(*arguments, **named)
        while not ray.wait([reference], timeout=_STOP_POLL_S)[0]:
            if should_stop():
                ray.cancel(reference, force=True)
                raise SearchCancelledError("cancelled on request")
        result: Result = ray.get(reference)
    return result
