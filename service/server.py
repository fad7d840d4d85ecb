"""The composition root: makes the stores, the servicers and the processes beside them, and serves until told to stop.

The server process never imports torch, ray, mlflow or onnx; models are opened in sandbox children, searches run in workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from paretopress.v1 import (
    access_pb2,
    access_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    schedule_pb2,
    schedule_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
    target_pb2,
    target_pb2_grpc,
    technique_pb2,
    technique_pb2_grpc,
)
from service.access.setup import Gate, check_exposure, make_gate, quotas_of
from service.errors import ServiceError
from service.estimate import Estimator
from service.importing import Importer, SandboxImporter
from service.intake.sandbox import warm_up
from service.interceptors import default_interceptors
from service.monitoring.endpoint import MonitoringServer
from service.monitoring.logs import configure_logging
from service.monitoring.memory import keep_freed_memory, make_pauses_rare
from service.monitoring.metrics import StoreCollector
from service.monitoring.readiness import NoWorkerError, Readiness
from service.monitoring.tracing import start_tracing, stop_tracing
from service.schedules.maker import SearchMaker
from service.schedules.scheduler import Scheduler
from service.servicers.access import AccessServicer
from service.servicers.datasets import DatasetServicer
from service.servicers.models import ModelServicer
from service.servicers.schedules import ScheduleServicer, ScheduleStores
from service.servicers.searches import SearchServicer, SearchStores
from service.servicers.targets import TargetServicer, TargetStores
from service.servicers.techniques import TechniqueServicer
from service.settings import Settings
from service.store.access_store import AccessStore
from service.store.blobs import FsspecBlobStore, blob_store
from service.store.calibration_catalogue import CalibrationCatalogue
from service.store.database import Database
from service.store.event_reader import EventReader
from service.store.input_store import InputStore
from service.store.paces import Paces
from service.store.queue_statistics import StatisticsReader
from service.store.schedule_runs import ScheduleRuns
from service.store.schedule_store import ScheduleStore
from service.store.search_catalogue import SearchCatalogue
from service.store.target_store import TargetStore
from service.store.upload_store import UploadStore
from service.targets.directory import TargetDirectory
from service.targets.latency_prices import LatencyPricing
from service.targets.predictors import PredictorFiles
from service.techniques import any_trains, known_techniques, technique_names
from service.tls import TlsFiles, server_credentials
from service.upkeep import Upkeep
from service.watching import EventHub
from service.workers.heartbeats import WorkerRegistry
from service.workers.supervision import SupervisedProcess, child_environment

_LOG = logging.getLogger("paretopress.server")
SERVICE_NAMES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (model_pb2, "ModelService"),
        (dataset_pb2, "DatasetService"),
        (target_pb2, "TargetService"),
        (search_pb2, "SearchService"),
        (schedule_pb2, "ScheduleService"),
        (technique_pb2, "TechniqueService"),
        (access_pb2, "AccessService"),
    )
)


class AddressInUseError(ServiceError):
    """The port is taken."""


class DataDirError(ServiceError):
    """The data directory cannot be written to."""


@dataclass
class RunningServer:
    """A server that answers. ``address`` is ``host:port``; ``mlflow_address`` is empty where no page is shown."""

    address: str
    mlflow_address: str
    database: Database
    _grpc: aio.Server
    _health: Any
    _processes: list[SupervisedProcess]
    _grace_s: float
    _upkeep: Upkeep
    _scheduler: Scheduler
    _gate: Gate
    _events: EventHub
    _readiness: Readiness
    _monitoring: MonitoringServer | None

    @property
    def worker_pid(self) -> int | None:
        """Process number of the embedded worker, while it runs."""
        return next((p.pid for p in self._processes if p.name == "worker"), None)

    @property
    def monitoring_address(self) -> str:
        """``host:port`` of the metrics; empty where there are none."""
        return self._monitoring.address if self._monitoring else ""

    async def stop(self) -> None:
        """Take no new calls, let those in progress end, then end the processes beside."""
        await self._readiness.stop()
        await self._health.enter_graceful_shutdown()
        beside = (self._upkeep.stop(), self._scheduler.stop(), *(process.stop() for process in self._processes))
        # Watchers are sent elsewhere once nobody can come back here.
        await asyncio.gather(self._grpc.stop(self._grace_s), self._events.close(), *beside)
        await self._gate.close()
        if self._monitoring is not None:
            await asyncio.to_thread(self._monitoring.stop)
        self.database.close()

    async def wait(self) -> None:
        """Until it was stopped."""
        await self._grpc.wait_for_termination()


async def start(settings: Settings, importer: Importer | None = None, worker_command: Sequence[str] | None = None) -> RunningServer:
    """Start everything and return once calls are answered.

    Args:
        importer, worker_command: what tests replace.

    Raises:
        AddressInUseError: the port is taken.
        InsecureSettingsError: others could reach the server unprotected, and nobody said that they may.
        ContradictingSettingsError, TlsFilesError: the settings of access or its files cannot be used.
        DataDirError: the data directory is somebody else's.
    """
    for warning in check_exposure(settings):
        _LOG.warning(warning)
    keep_freed_memory()
    _make_data_dir(settings.data_dir)
    database = Database(settings.resolved_database_url)
    await asyncio.to_thread(database.migrate)
    blobs = blob_store(settings)
    gate = make_gate(settings, AccessStore(database))
    server = aio.server(interceptors=default_interceptors(gate), options=_options(settings))
    events = EventHub(EventReader(database))
    schedules = _add_servicers(
        server, settings, database, blobs, events, importer or SandboxImporter(blobs, settings.data_dir.absolute() / "scratch")
    )
    health_servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    workers = WorkerRegistry(database, settings.workers_dir)
    readiness = _readiness(settings, database, blobs, workers, health_servicer)
    await readiness.look()
    reflection.enable_server_reflection([*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    monitoring = _monitoring(settings, database, workers, readiness)
    address = _bind(server, settings)
    await server.start()
    processes = _processes(settings, worker_command)
    for process in processes:
        process.start()
    upkeep = Upkeep(settings, database, blobs)
    upkeep.start()
    scheduler = Scheduler(schedules.schedules, schedules.runs)
    if settings.run_schedules:
        scheduler.start()
    readiness.start()
    mlflow_address = f"http://{settings.mlflow_host}:{settings.mlflow_port}" if settings.shows_mlflow else ""
    own = (server, health_servicer, processes, settings.shutdown_grace_s, upkeep, scheduler, gate, events, readiness, monitoring)
    return RunningServer(address, mlflow_address, database, *own)


def _make_data_dir(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        words = "run as its owner (a container: `--user`), give it to that user, or set PARETOPRESS_DATA_DIR"
        raise DataDirError(f"{folder} cannot be written to by user {os.getuid()}: {words}")


def _readiness(
    settings: Settings, database: Database, blobs: FsspecBlobStore, workers: WorkerRegistry, health_servicer: Any
) -> Readiness:
    def check_workers() -> None:
        if not workers.living():
            raise NoWorkerError("no worker lives; what is queued waits until one is started (python -m service.worker)")

    checks = {"store": database.ping, "blobs": blobs.probe, "workers": check_workers}
    stores = ("store", "blobs")
    needs: dict[str, tuple[str, ...]] = dict.fromkeys(SERVICE_NAMES, stores)
    if settings.readiness_needs_worker:
        needs[search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name] = tuple(checks)
    return Readiness(checks, needs, health_servicer)


def _monitoring(settings: Settings, database: Database, workers: WorkerRegistry, readiness: Readiness) -> MonitoringServer | None:
    if not settings.metrics_port:
        return None
    predictors = PredictorFiles(settings.targets_dir)
    collector = StoreCollector(StatisticsReader(database), predictors, lambda: len(workers.living()))
    monitoring = MonitoringServer(settings.metrics_host, settings.metrics_port, readiness, [collector])
    monitoring.start()
    return monitoring


def _add_servicers(
    server: aio.Server, settings: Settings, database: Database, blobs: FsspecBlobStore, events: EventHub, importer: Importer
) -> ScheduleStores:
    quotas = quotas_of(settings)
    models, datasets = InputStore(database, "model", quotas), InputStore(database, "dataset", quotas)
    uploads = UploadStore(database, settings.uploads_dir, settings.max_upload_bytes, quotas)
    uploads.remove_stale()
    predictors = PredictorFiles(settings.targets_dir)
    directory = TargetDirectory(predictors, TargetStore(database))
    targets = TargetStores(directory, CalibrationCatalogue(database), models, LatencyPricing(blobs))
    searches = SearchStores(
        searches=SearchCatalogue(database, quotas),
        events=events,
        models=models,
        datasets=datasets,
        blobs=blobs,
        estimator=Estimator(
            predictors, settings.cpus, settings.calibration_s, Paces(database).of, any_trains, settings.parallel_trials
        ),
        targets=directory,
        techniques=technique_names,
    )
    model_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(models, uploads, importer), server)
    dataset_servicer = DatasetServicer(datasets, uploads, importer, settings.dataset_roots)
    dataset_pb2_grpc.add_DatasetServiceServicer_to_server(dataset_servicer, server)
    target_pb2_grpc.add_TargetServiceServicer_to_server(TargetServicer(targets), server)
    search_pb2_grpc.add_SearchServiceServicer_to_server(SearchServicer(searches), server)
    # Its searches are made within transactions, where nothing may take long: they are taken to train.
    maker = SearchMaker(models, datasets, replace(searches.estimator, trains=lambda _: True))
    runs = ScheduleRuns(database, maker.make, quotas)
    schedules = ScheduleStores(ScheduleStore(database), runs, searches.lookups, settings.may_use_registry)
    schedule_pb2_grpc.add_ScheduleServiceServicer_to_server(ScheduleServicer(schedules), server)
    technique_pb2_grpc.add_TechniqueServiceServicer_to_server(TechniqueServicer(known_techniques), server)
    access_pb2_grpc.add_AccessServiceServicer_to_server(AccessServicer(AccessStore(database)), server)
    return schedules


def _options(settings: Settings) -> list[tuple[str, int]]:
    size = settings.max_message_bytes
    return [
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        # A watcher that has vanished without a word is noticed, and let go of.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def _bind(server: aio.Server, settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    files = TlsFiles.of(settings)
    credentials = server_credentials(files) if files else None
    try:
        where = f"{host}:{settings.port}"
        port = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    except RuntimeError as error:
        raise AddressInUseError(f"cannot listen on {host}:{settings.port} ({error}); set PARETOPRESS_PORT or --port") from error
    return f"{host}:{port}"


def _processes(settings: Settings, worker_command: Sequence[str] | None) -> list[SupervisedProcess]:
    environment = {**child_environment(), **settings.environment()}
    processes = []
    if settings.embedded_worker:
        command = worker_command or [sys.executable, "-m", "service.worker", "--parent-pid", str(os.getpid())]
        processes.append(SupervisedProcess("worker", command, environment, settings.data_dir / "worker.log"))
    if settings.shows_mlflow:
        artifacts = ["--artifacts-destination", settings.mlflow_artifacts or ""]
        page = ["--host", settings.mlflow_host, "--port", str(settings.mlflow_port), "--workers", "1"]
        store = ["--backend-store-uri", settings.resolved_tracking_uri]
        command = [sys.executable, "-m", "service.workers.supervision", str(os.getpid()), sys.executable, "-m", "mlflow", "server"]
        # Five more processes for language-model evaluation jobs, which nobody has here.
        environment = {**_without_secrets(environment), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        processes.append(
            SupervisedProcess("mlflow", [*command, *store, *artifacts, *page], environment, settings.data_dir / "mlflow.log")
        )
    return processes


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The page reads its own database and needs nothing of the service's."""
    return {name: value for name, value in environment.items() if not name.startswith(("PARETOPRESS_", "MLFLOW_TRACKING_", "AWS_"))}


def _without_password(url: str) -> str:
    """A URL that may be shown."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    return urlsplit(url)._replace(netloc=host, query="").geturl() if "@" in url or "?" in url else url


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once."""
    configure_logging(settings.log_level, settings.log_format)
    start_tracing("paretopress-server")
    stop = asyncio.Event()

    def end() -> None:
        if stop.is_set():
            os._exit(1)  # the kernel ends the worker with us, and its search is resumed
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    running = await start(settings)
    make_pauses_rare()
    print(f"Paretopress listens on {running.address}; data in {settings.data_dir.absolute()}", flush=True)
    tracking = running.mlflow_address or settings.mlflow_tracking_uri or settings.resolved_tracking_uri
    print(f"MLflow: {_without_password(tracking)}", flush=True)
    # A thread of its own: nobody waits for it when the server stops meanwhile.
    threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()
    await stop.wait()
    print("stopping", flush=True)
    await running.stop()
    stop_tracing()


def _warm_up() -> None:
    """The first upload should not wait for torch to load; a machine without a sandbox is told at once."""
    with contextlib.suppress(RuntimeError):  # the server is stopping already
        isolation = warm_up()
        if not isolation.network_blocked:
            _LOG.warning("this kernel does not let the sandbox cut off the network; uploads are opened without that protection")
        if not isolation.files_blocked:
            _LOG.warning("this kernel has no Landlock; uploads are opened in a process that could read and write other files")


def main() -> int:
    """Command line entry; settings come from the environment."""
    try:
        asyncio.run(serve(Settings()))
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
