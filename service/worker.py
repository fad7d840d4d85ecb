"""``python -m service.worker``: claims queued calibrations and searches one by one and runs them.

Calibrations go first: they take minutes, and the searches behind them get the better predictor. When nothing waits, the worker
calibrates its machine.

A worker that is told to end (SIGTERM, or its server's death) lets go of its search, which the next one resumes.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from opentelemetry.trace import SpanKind

from hw_models.errors import HardwareModelError
from hw_models.targets import Target, is_builtin
from search.attempts import unexpected
from search.clock import ClockedStore, StandingClock
from search.environment import SearchEnvironment, SearchOutcome
from search.errors import RuntimeLostError, SearchError
from search.process_variables import with_training_variables
from search.protocols import BlobStore, CandidateStore, Event, Progress
from search.spec import SearchSpec
from search.tracking.base import Tracker
from search.tracking.registry import ModelRegistry
from service.access.setup import quotas_of
from service.errors import ServiceError, StoreUnavailableError
from service.estimate import Estimator
from service.importing import Importer, SandboxImporter
from service.monitoring.logs import about_search, configure_logging
from service.monitoring.tracing import span, start_tracing, stop_tracing
from service.resources import TargetName, project_of, work_folder_name
from service.schedules.jobs import RegistryWorker
from service.schedules.maker import SearchMaker
from service.settings import Settings
from service.store.blobs import blob_store
from service.store.database import Database
from service.store.input_store import InputStore
from service.store.paces import Paces
from service.store.schedule_jobs import ScheduleJobs
from service.store.search_catalogue import TRACE_PHASE, SearchCatalogue
from service.store.search_queue import ClaimedSearch, SearchQueue, process_identity
from service.store.search_store import SqlCandidateStore
from service.store.target_store import TargetStore
from service.targets.calibrating import Calibrator, ShouldStop
from service.targets.calibrating import Progress as CalibrationProgress
from service.targets.directory import TargetDirectory
from service.targets.predictors import PredictorFiles
from service.workers.heartbeats import Heartbeat
from service.workers.late_tracking import LateTracking
from service.workers.leases import kept_lease
from service.workers.processes import MARKER, die_with_parent, end_process_group
from service.workers.search_spans import SearchSpans, TracedCandidateStore
from techniques.errors import TechniqueError

_LOG = logging.getLogger("paretopress.worker")
_POLL_S = 0.3
_EXIT_GRACE_S = 8.0
_CALIBRATE_AFTER_IDLE_S = 2.0
_STORE_PATIENCE_S = 60.0
"""A database that restarts should cost a search nothing."""


class Tools(Protocol):
    """What a worker calls below the service; tests bring their own."""

    def load(self) -> None:
        """Read what `run_search` needs; it takes seconds the first time."""
        ...

    def run_search(self, spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
        """One search to its end."""
        ...

    def calibrate(self, target: Target, budget_s: float, should_stop: ShouldStop, progress: CalibrationProgress) -> str:
        """A predictor's JSON text; ``progress`` gets a fraction and a line for people.

        Raises:
            InterruptedError: ``should_stop`` said so.
        """
        ...

    def tracker(self, settings: Settings) -> Tracker:
        """Where candidates are logged for people."""
        ...

    def registry(self, settings: Settings) -> ModelRegistry:
        """Where schedules find models, and put results."""
        ...

    def importer(self, settings: Settings, blobs: BlobStore) -> Importer:
        """What opens the models that are found there."""
        ...


class RealTools:
    """The search itself; imported when it is first needed, since torch and MLflow take seconds."""

    def load(self) -> None:
        """Torch and Ray."""
        import search.job  # noqa: F401

    def run_search(self, spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
        """`search.job.run_search`."""
        from search.job import run_search

        return run_search(spec, environment)

    def calibrate(self, target: Target, budget_s: float, should_stop: ShouldStop, progress: CalibrationProgress) -> str:
        """`hw_models.calibrate.calibrate`, stopped between two handfuls of networks."""
        from hw_models.calibrate import calibrate

        def tell(fraction: float, message: str) -> None:
            if should_stop():
                raise InterruptedError(f"calibration of {target.name} stopped at {fraction:.0%}: {message}")
            progress(fraction, message)

        return calibrate(target, budget_s=budget_s, progress=tell).to_json()

    def tracker(self, settings: Settings) -> Tracker:
        """MLflow, embedded or wherever the settings say."""
        from search.tracking.mlflow_tracker import MlflowTracker

        return MlflowTracker(settings.resolved_tracking_uri, artifact_location=settings.mlflow_artifacts)

    def registry(self, settings: Settings) -> ModelRegistry:
        """The same MLflow's model registry."""
        from search.tracking.mlflow_registry import MlflowRegistry
        from search.tracking.mlflow_tracker import MlflowTracker

        uri = settings.resolved_tracking_uri
        return MlflowRegistry(uri, MlflowTracker(uri, artifact_location=settings.mlflow_artifacts))

    def importer(self, settings: Settings, blobs: BlobStore) -> Importer:
        """The sandbox, as for uploads."""
        return SandboxImporter(blobs, settings.data_dir.absolute() / "scratch")


class Worker:
    """Runs searches until it is stopped. `stop` may be called from another thread, not from a signal handler."""

    def __init__(self, settings: Settings, database: Database, tools: Tools | None = None, owner: str = "") -> None:
        self._settings = settings
        self._database = database
        self._tools = tools or RealTools()
        self._queue = SearchQueue(database, owner or process_identity(), settings.lease_s)
        self._blobs = blob_store(settings)
        self._stopping = threading.Event()
        self._calibrator = Calibrator(settings, database, self._tools.calibrate, self._queue.owner, self._stopping.is_set)
        self._registry_worker = self._make_registry_worker()
        self._late_tracking = LateTracking(
            database,
            self._queue.owner,
            tracker=lambda: self._tools.tracker(settings),
            blobs=self._blobs,
            stopping=self._stopping.is_set,
            every_s=settings.tracking_retry_s,
        )

    def _make_registry_worker(self) -> RegistryWorker:
        settings, database = self._settings, self._database
        quotas = quotas_of(settings)
        models = InputStore(database, "model", quotas)
        predictors = PredictorFiles(settings.targets_dir)
        # Searches are made within transactions, where nothing may take long: they are taken to train.
        paces, parallel = Paces(database).of, settings.parallel_trials
        estimator = Estimator(predictors, settings.cpus, settings.calibration_s, paces, parallel=parallel)
        maker = SearchMaker(models, InputStore(database, "dataset"), estimator)
        return RegistryWorker(
            jobs=ScheduleJobs(database, self._queue.owner, settings.lease_s, maker.make, quotas),
            registry=lambda: self._tools.registry(settings),
            importer=lambda: self._tools.importer(settings, self._blobs),
            models=models,
            searches=SearchCatalogue(database, quotas),
            blobs=self._blobs,
            max_bytes=settings.max_upload_bytes,
            lease_s=settings.lease_s,
            stopping=self._stopping.is_set,
        )

    def stop(self) -> None:
        """End soon: a running search stops where it is and is resumed by the next worker."""
        self._stopping.set()

    def run(self) -> None:
        """Work until stopped."""
        with Heartbeat(self._settings.workers_dir, self._queue.owner):
            self._work()

    def _work(self) -> None:
        idle_since = time.monotonic()
        while not self._stopping.is_set():
            if self._ran_something():
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > _CALIBRATE_AFTER_IDLE_S:
                self._calibrator.run_idle()
                self._stopping.wait(_POLL_S)
            else:
                self._stopping.wait(_POLL_S)

    def _ran_something(self) -> bool:
        try:
            work = (self._registry_worker.run_next, self._calibrator.run_next, self._late_tracking.run_next, self.run_next)
            return any(run_next() for run_next in work)
        except StoreUnavailableError as error:
            _LOG.warning("waiting for the store: %s", error)
            return False

    def run_next(self) -> bool:
        """Run one search, if one waits."""
        claimed = self._queue.claim()
        self._end_abandoned()
        if claimed is None:
            return False
        _LOG.info("%s %s", "resuming" if claimed.resumed else "running", claimed.name)
        renewed = kept_lease(lambda: self._queue.renew(claimed.search_id), self._settings.lease_s)
        with renewed, about_search(claimed.name), self._traced(claimed):
            self._run(claimed)
        return True

    def _traced(self, claimed: ClaimedSearch) -> AbstractContextManager[object]:
        """The trace of the request that queued the search goes on here."""
        store = SqlCandidateStore(self._database, claimed.search_id, self._queue.owner)
        try:
            carrier = store.phase(TRACE_PHASE)
        except StoreUnavailableError:
            carrier = None  # a trace is worth no search
        return span("search", SpanKind.CONSUMER, {"search": claimed.name}, carrier)

    def _run(self, claimed: ClaimedSearch) -> None:
        try:
            self._end_process_groups(claimed.process_groups)
            self._queue.forget_process_groups(claimed.search_id)
            outcome = self._outcome(claimed)
        except StoreUnavailableError as error:
            # No failure of the search: its lease ends, and whoever takes it goes on from what is stored.
            _LOG.warning("letting go of %s: %s", claimed.name, error)
        except RuntimeLostError as error:
            self._go_on_later(claimed, error)
        except (SearchError, TechniqueError, HardwareModelError, ServiceError) as error:
            _LOG.warning("%s failed: %s", claimed.name, error)
            self._give_up(claimed, str(error))
        except Exception as error:
            _LOG.exception("%s failed", claimed.name)
            self._give_up(claimed, unexpected("worker", error))
        else:
            if outcome.state == "CANCELLED" and not self._queue.cancel_was_requested(claimed.search_id):
                self._queue.release(claimed.search_id)
            else:
                self._queue.finish(claimed.search_id, outcome)
        _LOG.info("done with %s", claimed.name)

    def _outcome(self, claimed: ClaimedSearch) -> SearchOutcome:
        with contextlib.closing(SearchSpans()) as spans:
            try:
                environment = self._prepared(claimed, spans)
            except InterruptedError as error:
                return SearchOutcome("CANCELLED", str(error))
            return self._tools.run_search(claimed.spec, environment)

    def _go_on_later(self, claimed: ClaimedSearch, error: RuntimeLostError) -> None:
        """The next claim resumes the search, now or in another worker."""
        _LOG.warning("%s goes on later: %s", claimed.name, error)
        if self._stopping.is_set():
            self._queue.release(claimed.search_id)
        else:
            self._queue.release_after(claimed.search_id, str(error))

    def _give_up(self, claimed: ClaimedSearch, message: str) -> None:
        """A failure while this worker ends is no failure of the search."""
        if self._stopping.is_set():
            self._queue.release(claimed.search_id)
        else:
            self._queue.fail(claimed.search_id, message)

    def _prepared(self, claimed: ClaimedSearch, spans: SearchSpans) -> SearchEnvironment:
        """What a search needs, with its libraries read; whoever looks sees what takes so long."""
        bound = (self._database, claimed.search_id, self._queue.owner, self._stopping.is_set)
        store = TracedCandidateStore(*bound, spans=spans)
        shown = ClockedStore(store, StandingClock(store, claimed.spec.effort.max_wall_time_s))
        with shown.noting():
            predictor_json = self._predictor(claimed, shown)
            shown.show(Progress("start", "reading the libraries of a search"))
            environment = self._environment(claimed, store, predictor_json)
            self._tools.load()
        return environment

    def _environment(self, claimed: ClaimedSearch, store: SqlCandidateStore, predictor_json: str) -> SearchEnvironment:
        return SearchEnvironment(
            began=time.monotonic(),
            search_name=claimed.name,
            store=store,
            blobs=self._blobs,
            tracker=self._tools.tracker(self._settings),
            predictor_json=predictor_json,
            work_dir=self._settings.work_dir / work_folder_name(claimed.name),
            ray_address=self._settings.ray_address,
            cpus=self._settings.cpus,
            parallel_trials=self._settings.parallel_trials,
            trial_cpus=self._settings.trial_cpus,
            train_device=self._settings.train_device,
            cluster_wait_s=self._settings.cluster_wait_s,
            measure_limit_s=self._settings.measure_limit_s,
            dataset_notes=claimed.dataset_notes,
            origin=claimed.origin,
        )

    def _predictor(self, claimed: ClaimedSearch, store: CandidateStore) -> str:
        """What was measured on a target of this machine, measured now if need be; of any other, what its data sheet says."""
        target, predictors = claimed.spec.target, self._calibrator.predictors
        if not is_builtin(target):
            directory = TargetDirectory(predictors, TargetStore(self._database))
            known = directory.get(TargetName(project_of(claimed.name) or "", target))
            return directory.predictor(known).to_json()
        if not predictors.exists(target):
            store.append(Event("phase", f"calibrating {target}: about {self._settings.calibration_s:.0f} s, once"))

            def show(fraction: float, message: str) -> None:
                store.show(Progress("start", f"calibrating {target}: {fraction:.0%}, {message}"))

            self._calibrator.measure(target, self._settings.calibration_s, store.should_stop, show)
        return predictors.get(target).text

    def _end_abandoned(self) -> None:
        """What dead workers of searches that were cancelled, or given up, have left running."""
        for search_id, groups in self._queue.abandoned_groups().items():
            self._end_process_groups(groups)
            self._queue.forget_process_groups(search_id)

    def _end_process_groups(self, groups: tuple[int, ...]) -> None:
        for pgid in groups:
            if end_process_group(pgid, str(self._settings.data_dir.absolute())):
                _LOG.warning("ended process group %d of an earlier worker", pgid)


def _end_on_signals(worker: Worker) -> None:
    """Stop the worker on SIGTERM or SIGINT, from a thread of its own.

    A Python handler runs between two bytecodes of the main thread, perhaps while that holds the very lock that `Worker.stop`
    needs; and the kernel may send the parent's death twice. So the handlers do nothing, and a thread reads the wake-up pipe.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def end() -> None:
        while os.read(reader, 1)[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        worker.stop()
        time.sleep(_EXIT_GRACE_S)
        # Whatever did not let go in time is ended with all that it started; its search is resumed.
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=end, name="signals", daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; settings come from the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent-pid", type=int, help="end when this process, the parent, does")
    parser.add_argument("--data-dir", type=Path, help="instead of PARETOPRESS_DATA_DIR")
    options = parser.parse_args(arguments)
    settings = Settings(data_dir=options.data_dir) if options.data_dir else Settings()
    configure_logging(settings.log_level, settings.log_format)
    start_tracing("paretopress-worker")
    for chatty in ("alembic", "onnx_ir", "onnxscript"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    os.environ[MARKER] = str(settings.data_dir.absolute())
    os.environ.update(with_training_variables(os.environ))
    database = Database(settings.resolved_database_url, patience_s=_STORE_PATIENCE_S)
    database.migrate()
    worker = Worker(settings, database)
    _end_on_signals(worker)
    if options.parent_pid:
        die_with_parent(options.parent_pid)
    worker.run()
    stop_tracing()
    for number in (signal.SIGTERM, signal.SIGINT):
        # The interpreter gives handlers of Python back while it ends, and then a late signal would kill it.
        signal.signal(number, signal.SIG_IGN)
    return 0


if __name__ == "__main__":
    sys.exit(main())
