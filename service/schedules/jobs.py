"""A worker's part in schedules: models come from the registry, through the same intake as uploads, and results go there."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from search.attempts import unexpected
from search.errors import SearchError
from search.protocols import BlobStore
from search.tracking.registry import ModelRegistry, RegistryRefusedError
from service.converters.inputs import ModelUpload
from service.errors import ServiceError, StoreUnavailableError
from service.importing import Importer
from service.intake.errors import IntakeError, SandboxError
from service.intake.onnx_folder import single_file
from service.resources import ModelName, new_id
from service.schedules.spec import RegistryEntry, RegistryReference
from service.store.input_store import InputStore, NewInput
from service.store.schedule_jobs import ClaimedRun, ScheduleJobs
from service.store.search_catalogue import SearchCatalogue
from service.store.upload_store import UploadSpec
from service.workers.leases import kept_lease

_LOG = logging.getLogger("paretopress.worker")
_MODEL = "model.onnx"


class RegistryWorker:
    """Fetches and registers what scheduled runs wait for.

    Args:
        registry: made when it is first needed, since MLflow takes seconds.
        stopping: whether the worker itself has been told to end.
    """

    def __init__(
        self,
        jobs: ScheduleJobs,
        registry: Callable[[], ModelRegistry],
        importer: Callable[[], Importer],
        models: InputStore,
        searches: SearchCatalogue,
        blobs: BlobStore,
        max_bytes: int,
        lease_s: float,
        stopping: Callable[[], bool],
    ) -> None:
        self._jobs = jobs
        self._registry = registry
        self._importer = importer
        self._models = models
        self._searches = searches
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._lease_s = lease_s
        self._stopping = stopping

    def run_next(self) -> bool:
        """Do one piece of work, if one waits."""
        run = self._jobs.claim()
        if run is None:
            return False
        with kept_lease(lambda: self._jobs.renew(run.run_id), self._lease_s):
            try:
                self._resolve(run) if run.work == "resolve" else self._register(run)
            except StoreUnavailableError:
                raise
            except (RegistryRefusedError, ServiceError, IntakeError, SandboxError) as error:
                self._give_up(run, str(error))
            except SearchError as error:
                _LOG.warning("%s: %s", run.name, error)
                self._jobs.try_again(run.run_id, str(error))
            except Exception as error:
                _LOG.exception("%s failed", run.name)
                self._give_up(run, unexpected("registry", error))
        return True

    def _give_up(self, run: ClaimedRun, message: str) -> None:
        """A failure while this worker ends is no failure of the run."""
        _LOG.warning("%s: %s", run.name, message)
        if self._stopping():
            self._jobs.let_go(run.run_id)
        else:
            self._jobs.fail(run.run_id, message)

    def _resolve(self, run: ClaimedRun) -> None:
        reference = run.spec.template.reference
        if reference is None:
            raise RegistryRefusedError("the template no longer names a model of the registry; run the schedule again")
        registry = self._registry()
        number = reference.version or registry.version_of(reference.model_name, reference.alias)
        version = f"models:/{reference.model_name}/{number}"
        if version == run.last_version and not run.spec.rerun_unchanged:
            self._jobs.unchanged(run.run_id, version)
        else:
            self._jobs.create_search(run.run_id, self._model(registry, reference, number, run.project), version)

    def _model(self, registry: ModelRegistry, reference: RegistryReference, number: str, project: str) -> str:
        """Name of the stored model with the bytes of a version; one that was there before is taken again."""
        with tempfile.TemporaryDirectory(prefix="paretopress-registry-") as name:
            folder, scratch = Path(name) / "version", Path(name) / "scratch"
            folder.mkdir()
            scratch.mkdir()
            path = single_file(registry.download(reference.model_name, number, folder, self._max_bytes).path, scratch)
            digest, size_bytes = _sha256(path), path.stat().st_size
            upload = UploadSpec(project, "model", f"registry-{digest[:16]}", size_bytes, digest)
            title = f"models:/{reference.model_name}/{number}"
            request = ModelUpload(ModelName(project, new_id("m")).name, project, title, "onnx", {}, upload)
            known = self._models.find_same(project, digest, request.format, request.options_sha256)
            if known is not None:
                return known.name
            facts = {**self._importer().model(path, request), "options_sha256": request.options_sha256}
            new = NewInput(request.name, project, title, request.format, digest, size_bytes, facts)
            return self._models.add(new, announced=False).name

    def _register(self, run: ClaimedRun) -> None:
        entry = run.spec.register_as
        if entry is None or run.search_state != "SUCCEEDED":
            ended = f"ended {run.search_state}" if run.search_state else "was deleted"
            words = "the schedule no longer says where" if entry is None else f"{run.search} {ended}"
            return self._jobs.nothing_to_register(run.run_id, f"{words}: nothing was registered")
        return self._register_best(run, entry)

    def _register_best(self, run: ClaimedRun, entry: RegistryEntry) -> None:
        best = self._searches.candidate(run.search, self._searches.get(run.search).outcome["best"])
        if _MODEL not in best.artifacts:
            raise RegistryRefusedError(f"{best.candidate_id} of {run.search} is no ONNX file: its target runs another one")
        path = self._blobs.local_path(best.artifacts[_MODEL])
        number = self._registry().register(entry.model_name, entry.alias, run.search, path)
        message = f"{best.candidate_id} of {run.search}, under the alias {entry.alias}"
        self._jobs.registered(run.run_id, f"models:/{entry.model_name}/{number}", message)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
