"""Ray for one search: an embedded runtime that ends with it, or a cluster that is there already."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from search.errors import RuntimeLostError
from search.execution.cluster import connect
from search.protocols import TrainDevice

_OBJECT_STORE_BYTES = 256 * 2**20
_RAY_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class RunnerSettings:
    """How Ray runs here.

    Attributes:
        address: of a cluster; None starts an embedded runtime that ends with the search.
        cpus: of the embedded runtime.
        parallel_trials: one gives a repeatable search (contract 7); more share the CPUs.
        storage_path: where Tune keeps its own files.
        gpus: of the embedded runtime; a trial takes its share of them, and trains there.
        train_device: ``cpu`` keeps trials off GPUs, ``cuda`` wants one, ``auto`` takes what there is.
        trial_cpus: threads of a trial; 0 shares ``cpus`` between the parallel trials. They decide the last bits of an accuracy, so
            they never depend on the node.
        wait_limit_s: how long a search waits for a cluster without anything running.
    """

    cpus: int
    storage_path: Path
    address: str | None = None
    parallel_trials: int = 1
    trial_cpus: int = 0
    gpus: int = 0
    train_device: TrainDevice = "auto"
    wait_limit_s: float = 300.0

    @property
    def threads_per_trial(self) -> int:
        """Threads that one trial computes with."""
        return self.trial_cpus or max(1, self.cpus // self.parallel_trials)


@contextmanager
def ray_runtime(settings: RunnerSettings) -> Iterator[None]:
    """Connect to the cluster, or start an embedded runtime in the caller's process group and end it afterwards.

    Raises:
        RuntimeLostError: it did not start, or nobody answers at the address.
        ClusterError: the cluster cannot be used as things are; says what to change.
    """
    for name, value in _RAY_VARIABLES.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Tune's own state is never restored (contract 6), so nobody has to hear that it was not saved.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    # Unix sockets allow about 100 characters, so the runtime's folder cannot lie under the data folder.
    folder = None if settings.address else tempfile.mkdtemp(prefix="pp-ray-", dir="/tmp")
    try:
        with _own_signal_handler():
            if settings.address:
                connect(settings.address)
            else:
                _start(settings.cpus, settings.gpus, folder)
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _start(cpus: int, gpus: int, folder: str | None) -> None:
    with _failed_start():
        ray.init(
            # Nothing else would keep it from joining a cluster that happens to run on this machine.
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            ignore_reinit_error=True,
            _temp_dir=folder,
        )


@contextmanager
def _failed_start() -> Iterator[None]:
    """Ray raises bare exceptions when one of its processes is killed while it starts."""
    try:
        yield
    except Exception as error:
        raise RuntimeLostError(f"Ray did not start: {type(error).__name__}: {error}") from error


@contextmanager
def _own_signal_handler() -> Iterator[None]:
    """`ray.init` makes SIGTERM raise SystemExit in the middle of whatever runs; the caller's handler is put back."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
