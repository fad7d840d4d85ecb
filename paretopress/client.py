"""The typed client: one method per rpc, plus what takes several (resumed uploads, watching over reconnects, checked downloads)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from google.protobuf.duration_pb2 import Duration

from paretopress.calling import FIRST_PAUSE_S, Caller, OnRetry, new_request_id
from paretopress.credentials import Credentials
from paretopress.errors import ServerUnavailableError, from_rpc_error
from paretopress.transfer import Download, Progress
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

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_PROJECT = "projects/default"
MAX_MESSAGE_BYTES = 8 << 20
_WATCH_PAUSE_S = 0.5
_CONNECTED_S = 1.0
"""A stream that lasted longer had reached the server: an attempt at one that is away ends at once."""
ENDED_STATES = frozenset(
    {
        search_pb2.Search.SUCCEEDED,
        search_pb2.Search.INFEASIBLE,
        search_pb2.Search.FAILED,
        search_pb2.Search.CANCELLED,
    }
)
ENDED_CALIBRATIONS = frozenset({target_pb2.Calibration.SUCCEEDED, target_pb2.Calibration.FAILED, target_pb2.Calibration.CANCELLED})


class Client(Caller):
    """A connection to a Paretopress server; close it, or use it in a ``with`` block. Threads may share one.

    Calls that the server did not hear are repeated for ``retry_s`` seconds; a ``request_id`` keeps repetitions harmless.
    Every method raises `paretopress.errors.RequestRefusedError` (with every bad field) when the server says no.

    Args:
        address: ``host:port``.
        project: ``projects/{project}``, for what is created and listed.
        token: an API token (``pp_...``) or a JSON web token of an identity provider.
        ca_certificate: PEM file of the authority behind the server's certificate, or ``system``; without it there is no TLS.
        client_certificate, client_key: PEM files, for servers that ask clients for a certificate.
        insecure: send the token without TLS to another machine all the same.
        on_retry: told of each call that is repeated: why, and the seconds that are left for it.

    Raises:
        CredentialsError: a file cannot be read, or the token would travel in the clear.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        project: str = DEFAULT_PROJECT,
        retry_s: float = 15.0,
        *,
        token: str = "",
        ca_certificate: Path | str = "",
        client_certificate: Path | str = "",
        client_key: Path | str = "",
        insecure: bool = False,
        on_retry: OnRetry | None = None,
    ) -> None:
        super().__init__(project, retry_s, on_retry)
        self.address = address
        size = MAX_MESSAGE_BYTES
        options = [("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", size)]
        credentials = Credentials(token, ca_certificate, client_certificate, client_key, insecure)
        self._channel = credentials.channel(address, options)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._datasets = dataset_pb2_grpc.DatasetServiceStub(self._channel)
        self._targets = target_pb2_grpc.TargetServiceStub(self._channel)
        self._searches = search_pb2_grpc.SearchServiceStub(self._channel)
        self._schedules = schedule_pb2_grpc.ScheduleServiceStub(self._channel)
        self._techniques = technique_pb2_grpc.TechniqueServiceStub(self._channel)
        self._access = access_pb2_grpc.AccessServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    # Models

    def upload_model(
        self,
        path: Path | str,
        format: model_pb2.Model.Format.ValueType,
        *,
        display_name: str = "",
        architecture: str = "",
        options: model_pb2.ArchitectureOptions | None = None,
        model_id: str = "",
        progress: Progress | None = None,
    ) -> model_pb2.Model:
        """Upload a model file; broken streams are resumed where they broke off."""
        model = model_pb2.Model(display_name=display_name or Path(path).name, format=format, architecture=architecture)
        metadata = model_pb2.UploadModelMetadata(
            parent=self.project, model_id=model_id, model=model, architecture_options=options, request_id=new_request_id()
        )
        uploaded: model_pb2.Model = self._upload(
            Path(path), metadata, model_pb2.UploadModelRequest, self._models.UploadModel, self._models.QueryModelUpload, progress
        )
        return uploaded

    def get_model(self, name: str) -> model_pb2.Model:
        """One model."""
        return self._call(self._models.GetModel, model_pb2.GetModelRequest(name=name))

    def list_models(self, page_size: int = 0) -> Iterator[model_pb2.Model]:
        """All models, newest first; pages are fetched as needed."""
        request = model_pb2.ListModelsRequest(parent=self.project, page_size=page_size)
        return self._pages(self._models.ListModels, request, "models")

    def delete_model(self, name: str, etag: str = "") -> None:
        """Delete a model."""
        self._call(self._models.DeleteModel, model_pb2.DeleteModelRequest(name=name, etag=etag))

    # Datasets

    def upload_dataset(
        self,
        path: Path | str,
        format: dataset_pb2.Dataset.Format.ValueType,
        preprocessing: dataset_pb2.Preprocessing,
        *,
        display_name: str = "",
        options: dataset_pb2.DatasetOptions | None = None,
        dataset_id: str = "",
        progress: Progress | None = None,
    ) -> dataset_pb2.Dataset:
        """Upload a dataset file; broken streams are resumed where they broke off."""
        dataset = dataset_pb2.Dataset(display_name=display_name or Path(path).name, format=format, preprocessing=preprocessing)
        metadata = dataset_pb2.UploadDatasetMetadata(
            parent=self.project, dataset_id=dataset_id, dataset=dataset, options=options, request_id=new_request_id()
        )
        stub = self._datasets
        uploaded: dataset_pb2.Dataset = self._upload(
            Path(path), metadata, dataset_pb2.UploadDatasetRequest, stub.UploadDataset, stub.QueryDatasetUpload, progress
        )
        return uploaded

    def import_dataset(
        self,
        source_path: str,
        format: dataset_pb2.Dataset.Format.ValueType,
        preprocessing: dataset_pb2.Preprocessing,
        *,
        display_name: str = "",
        options: dataset_pb2.DatasetOptions | None = None,
        dataset_id: str = "",
    ) -> dataset_pb2.Dataset:
        """Read a dataset that lies on the server, under one of its dataset roots."""
        dataset = dataset_pb2.Dataset(display_name=display_name or source_path, format=format, preprocessing=preprocessing)
        request = dataset_pb2.ImportDatasetRequest(
            parent=self.project,
            dataset_id=dataset_id,
            dataset=dataset,
            options=options,
            source_path=source_path,
            request_id=new_request_id(),
        )
        return self._call(self._datasets.ImportDataset, request)

    def get_dataset(self, name: str) -> dataset_pb2.Dataset:
        """One dataset."""
        return self._call(self._datasets.GetDataset, dataset_pb2.GetDatasetRequest(name=name))

    def list_datasets(self, page_size: int = 0) -> Iterator[dataset_pb2.Dataset]:
        """All datasets, newest first; pages are fetched as needed."""
        request = dataset_pb2.ListDatasetsRequest(parent=self.project, page_size=page_size)
        return self._pages(self._datasets.ListDatasets, request, "datasets")

    def delete_dataset(self, name: str, etag: str = "") -> None:
        """Delete a dataset."""
        self._call(self._datasets.DeleteDataset, dataset_pb2.DeleteDatasetRequest(name=name, etag=etag))

    # Targets

    def get_target(self, name: str) -> target_pb2.Target:
        """One target."""
        return self._call(self._targets.GetTarget, target_pb2.GetTargetRequest(name=name))

    def list_targets(self, page_size: int = 0) -> Iterator[target_pb2.Target]:
        """All targets, by name."""
        request = target_pb2.ListTargetsRequest(parent=self.project, page_size=page_size)
        return self._pages(self._targets.ListTargets, request, "targets")

    def list_techniques(self) -> list[technique_pb2.Technique]:
        """What the server can do to a network, in the order in which it is applied."""
        return list(self._call(self._techniques.ListTechniques, technique_pb2.ListTechniquesRequest()).techniques)

    def create_target(self, target: target_pb2.Target, target_id: str, *, request_id: str = "") -> target_pb2.Target:
        """Register a target that is known from its data sheet; it needs ``device``, ``runtime`` and ``peaks``."""
        request = target_pb2.CreateTargetRequest(
            parent=self.project, target=target, target_id=target_id, request_id=request_id or new_request_id()
        )
        return self._call(self._targets.CreateTarget, request)

    def validate_target(self, target: target_pb2.Target, target_id: str) -> target_pb2.Target:
        """Check a target without registering it; returns it as it would be."""
        request = target_pb2.CreateTargetRequest(parent=self.project, target=target, target_id=target_id, validate_only=True)
        return self._call(self._targets.CreateTarget, request)

    def delete_target(self, name: str, etag: str = "") -> None:
        """Delete a registered target."""
        self._call(self._targets.DeleteTarget, target_pb2.DeleteTargetRequest(name=name, etag=etag))

    def calibrate_target(self, name: str, budget_s: float | None = None, *, request_id: str = "") -> target_pb2.Calibration:
        """Queue a calibration of an attached target; ``budget_s`` is 10 to 900 seconds of measuring, 300 if not given."""
        request = target_pb2.CalibrateTargetRequest(name=name, request_id=request_id or new_request_id())
        if budget_s is not None:
            request.budget_duration.FromNanoseconds(round(budget_s * 1e9))
        return self._call(self._targets.CalibrateTarget, request)

    def get_calibration(self, name: str) -> target_pb2.Calibration:
        """One calibration."""
        return self._call(self._targets.GetCalibration, target_pb2.GetCalibrationRequest(name=name))

    def list_calibrations(self, target: str, page_size: int = 0) -> Iterator[target_pb2.Calibration]:
        """A target's calibrations, newest first; pages are fetched as needed."""
        request = target_pb2.ListCalibrationsRequest(parent=target, page_size=page_size)
        return self._pages(self._targets.ListCalibrations, request, "calibrations")

    def cancel_calibration(self, name: str) -> target_pb2.Calibration:
        """Ask a calibration to stop."""
        return self._call(self._targets.CancelCalibration, target_pb2.CancelCalibrationRequest(name=name))

    def watch_calibration(self, name: str) -> Iterator[target_pb2.Calibration]:
        """A calibration twice a second until it has ended; the last one is how it ended."""
        while True:
            calibration = self.get_calibration(name)
            yield calibration
            if calibration.state in ENDED_CALIBRATIONS or calibration.HasField("end_time"):
                return
            time.sleep(_WATCH_PAUSE_S)

    def compare_targets(
        self, model: str, targets: Sequence[str], batch_size: int = 1, recipe_json: str = ""
    ) -> target_pb2.CompareTargetsResponse:
        """What a model, or a recipe applied to it, would take on several targets, in their order."""
        request = target_pb2.CompareTargetsRequest(model=model, targets=targets, batch_size=batch_size, recipe_json=recipe_json)
        return self._call(self._targets.CompareTargets, request)

    def predict_latency(
        self, target: str, model: str, batch_size: int = 1, recipe_json: str = ""
    ) -> target_pb2.PredictLatencyResponse:
        """What a model, or a recipe applied to it, would take on a target."""
        request = target_pb2.PredictLatencyRequest(target=target, model=model, batch_size=batch_size, recipe_json=recipe_json)
        return self._call(self._targets.PredictLatency, request)

    # Access

    def create_token(
        self,
        scope: access_pb2.Token.Scope.ValueType,
        *,
        display_name: str = "",
        lifetime_s: float | None = None,
        all_projects: bool = False,
    ) -> access_pb2.CreateTokenResponse:
        """Make an API token of the project; its ``secret`` is in this answer only. It lives 90 days if not told otherwise."""
        token = access_pb2.Token(display_name=display_name, scope=scope, all_projects=all_projects)
        if lifetime_s is not None:
            token.expire_time.FromNanoseconds(time.time_ns() + round(lifetime_s * 1e9))
        return self._call(self._access.CreateToken, access_pb2.CreateTokenRequest(parent=self.project, token=token))

    def list_tokens(self, page_size: int = 0) -> Iterator[access_pb2.Token]:
        """The project's API tokens, newest first, without their secrets; pages are fetched as needed."""
        request = access_pb2.ListTokensRequest(parent=self.project, page_size=page_size)
        return self._pages(self._access.ListTokens, request, "tokens")

    def revoke_token(self, name: str) -> access_pb2.Token:
        """End an API token."""
        return self._call(self._access.RevokeToken, access_pb2.RevokeTokenRequest(name=name))

    # Searches

    def create_search(self, search: search_pb2.Search, *, search_id: str = "", request_id: str = "") -> search_pb2.Search:
        """Queue a search."""
        request = search_pb2.CreateSearchRequest(
            parent=self.project, search=search, search_id=search_id, request_id=request_id or new_request_id()
        )
        return self._call(self._searches.CreateSearch, request)

    def validate_search(self, search: search_pb2.Search) -> search_pb2.Search:
        """Check a search and learn its ``estimated_duration``, without queueing it."""
        request = search_pb2.CreateSearchRequest(parent=self.project, search=search, validate_only=True)
        return self._call(self._searches.CreateSearch, request)

    def get_search(self, name: str) -> search_pb2.Search:
        """One search."""
        return self._call(self._searches.GetSearch, search_pb2.GetSearchRequest(name=name))

    def list_searches(self, page_size: int = 0) -> Iterator[search_pb2.Search]:
        """All searches, newest first; pages are fetched as needed."""
        request = search_pb2.ListSearchesRequest(parent=self.project, page_size=page_size)
        return self._pages(self._searches.ListSearches, request, "searches")

    def watch(self, name: str, after_sequence: int = 0) -> Iterator[search_pb2.SearchEvent]:
        """Every event once and in order, until the search has ended; a lost connection is taken up where it was."""
        deadline = None
        while True:
            request = search_pb2.WatchSearchRequest(name=name, after_sequence=after_sequence)
            began = time.monotonic()
            try:
                for event in self._searches.WatchSearch(request):
                    after_sequence, deadline = event.sequence, None
                    yield event
                return
            except grpc.RpcError as error:
                refused = from_rpc_error(error)
                if time.monotonic() - began > _CONNECTED_S:
                    deadline = None  # the server was there meanwhile, and had nothing to tell
                deadline = deadline or time.monotonic() + self._retry_s
                if not isinstance(refused, ServerUnavailableError) or time.monotonic() > deadline:
                    raise refused from error
                time.sleep(FIRST_PAUSE_S)

    def wait(self, name: str) -> search_pb2.Search:
        """Block until a search has ended; returns it."""
        for _ in self.watch(name):
            pass
        return self.get_search(name)

    def cancel_search(self, name: str, etag: str = "") -> search_pb2.Search:
        """Ask a search to stop."""
        return self._call(self._searches.CancelSearch, search_pb2.CancelSearchRequest(name=name, etag=etag))

    def delete_search(self, name: str, etag: str = "") -> None:
        """Delete a search that has ended."""
        self._call(self._searches.DeleteSearch, search_pb2.DeleteSearchRequest(name=name, etag=etag))

    def pick_best(
        self, name: str, budget: search_pb2.Budget, preference: search_pb2.Preference.ValueType = search_pb2.FASTEST
    ) -> search_pb2.PickBestResponse:
        """Another best from the same search, under another budget."""
        request = search_pb2.PickBestRequest(name=name, budget=budget, preference=preference)
        return self._call(self._searches.PickBest, request)

    def extend_search(self, name: str, additional_trials: int, additional_wall_time_s: float = 0.0) -> search_pb2.Search:
        """Give an ended search more trials."""
        wall_time = Duration()
        wall_time.FromNanoseconds(round(additional_wall_time_s * 1e9))
        request = search_pb2.ExtendSearchRequest(
            name=name, additional_trials=additional_trials, additional_wall_time=wall_time, request_id=new_request_id()
        )
        return self._call(self._searches.ExtendSearch, request)

    # Schedules

    def create_schedule(
        self, schedule: schedule_pb2.Schedule, *, schedule_id: str = "", request_id: str = ""
    ) -> schedule_pb2.Schedule:
        """Make a schedule; it needs ``cron`` and ``template``."""
        request = schedule_pb2.CreateScheduleRequest(
            parent=self.project, schedule=schedule, schedule_id=schedule_id, request_id=request_id or new_request_id()
        )
        return self._call(self._schedules.CreateSchedule, request)

    def validate_schedule(self, schedule: schedule_pb2.Schedule) -> schedule_pb2.Schedule:
        """Check a schedule and learn its ``next_run_time``, without making it."""
        request = schedule_pb2.CreateScheduleRequest(parent=self.project, schedule=schedule, validate_only=True)
        return self._call(self._schedules.CreateSchedule, request)

    def get_schedule(self, name: str) -> schedule_pb2.Schedule:
        """One schedule."""
        return self._call(self._schedules.GetSchedule, schedule_pb2.GetScheduleRequest(name=name))

    def list_schedules(self, page_size: int = 0) -> Iterator[schedule_pb2.Schedule]:
        """All schedules, newest first; pages are fetched as needed."""
        request = schedule_pb2.ListSchedulesRequest(parent=self.project, page_size=page_size)
        return self._pages(self._schedules.ListSchedules, request, "schedules")

    def update_schedule(self, schedule: schedule_pb2.Schedule, fields: Sequence[str]) -> schedule_pb2.Schedule:
        """Change fields of the schedule that ``schedule.name`` says; with an ``etag`` only while it is the schedule's."""
        request = schedule_pb2.UpdateScheduleRequest(schedule=schedule)
        request.update_mask.paths.extend(fields)
        return self._call(self._schedules.UpdateSchedule, request)

    def delete_schedule(self, name: str, etag: str = "") -> None:
        """Delete a schedule; its searches stay."""
        self._call(self._schedules.DeleteSchedule, schedule_pb2.DeleteScheduleRequest(name=name, etag=etag))

    def pause_schedule(self, name: str, etag: str = "") -> schedule_pb2.Schedule:
        """Let a schedule rest."""
        return self._call(self._schedules.PauseSchedule, schedule_pb2.PauseScheduleRequest(name=name, etag=etag))

    def resume_schedule(self, name: str, etag: str = "") -> schedule_pb2.Schedule:
        """Go on with a schedule at its next due time."""
        return self._call(self._schedules.ResumeSchedule, schedule_pb2.ResumeScheduleRequest(name=name, etag=etag))

    def run_schedule(self, name: str, *, request_id: str = "") -> schedule_pb2.ScheduleRun:
        """Run a schedule now."""
        request = schedule_pb2.RunScheduleRequest(name=name, request_id=request_id or new_request_id())
        return self._call(self._schedules.RunSchedule, request)

    def list_schedule_runs(self, schedule: str, page_size: int = 0) -> Iterator[schedule_pb2.ScheduleRun]:
        """What became of a schedule's due times, newest first; pages are fetched as needed."""
        request = schedule_pb2.ListScheduleRunsRequest(parent=schedule, page_size=page_size)
        return self._pages(self._schedules.ListScheduleRuns, request, "runs")

    # Candidates

    def get_candidate(self, name: str) -> search_pb2.Candidate:
        """One candidate."""
        return self._call(self._searches.GetCandidate, search_pb2.GetCandidateRequest(name=name))

    def list_candidates(self, search: str, front_only: bool = False, page_size: int = 0) -> Iterator[search_pb2.Candidate]:
        """A search's candidates, by trial."""
        request = search_pb2.ListCandidatesRequest(parent=search, front_only=front_only, page_size=page_size)
        return self._pages(self._searches.ListCandidates, request, "candidates")

    def download_artifact(self, name: str, artifact: str, target: Path | str, progress: Progress | None = None) -> Path:
        """Download a file of a candidate or a search to a path; it appears there only whole and with the right sha256.

        Raises:
            TransferError: what arrived is not what was announced.
        """
        download = Download(Path(target))

        def attempt() -> None:
            request = search_pb2.DownloadArtifactRequest(name=name, artifact=artifact, offset=download.offset)
            download.receive(self._searches.DownloadArtifact(request), progress)

        self._retry(attempt)
        return Path(target)
