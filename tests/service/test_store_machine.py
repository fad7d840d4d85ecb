"""Uploads, searches, schedules, workers, clocks and restarts in any order: whatever happens, the store never contradicts itself.

`PARETOPRESS_TEST_DATABASE=postgresql` runs it on PostgreSQL, `--hypothesis-profile long` for minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, precondition, rule

from benchmarks.postgresql import PostgresServer
from paretopress.client import ENDED_STATES
from paretopress.errors import RequestRefusedError
from paretopress.v1 import dataset_pb2, model_pb2, model_pb2_grpc, schedule_pb2, search_pb2, upload_pb2
from search.environment import SearchEnvironment, SearchOutcome
from search.errors import SearchError
from search.protocols import Event
from search.spec import SearchSpec
from service.estimate import Estimator
from service.schedules.maker import SearchMaker
from service.schedules.scheduler import Scheduler
from service.store.blobs import blob_store
from service.store.database import Database
from service.store.input_store import InputStore
from service.store.invariants import violations
from service.store.retention import Collector, RetentionPolicy
from service.store.schedule_runs import ScheduleRuns
from service.store.schedule_store import ScheduleStore
from service.store.search_queue import SearchQueue
from service.store.search_store import LeaseLostError, SqlCandidateStore
from service.store.upload_store import STALE_AFTER_S, UploadStore
from service.targets.predictors import PredictorFiles
from service.testing import InProcessServer
from service.worker import Worker
from tests.service.fakes import FakeImporter, FakeTools, finds_three, record

PARENT = "projects/default"
Schedule = schedule_pb2.Schedule
LEASE_S, DAY_S = 15.0, 24 * 3600.0
LONG = settings.get_current_profile_name() == "long"
REQUEST_IDS = st.sampled_from(["", "", "r1", "r2", "r3"])
CONTENTS = st.sampled_from([b"first", b"second", b"bad to the bone"])


class Clock:
    """The real time, and what tests add to it."""

    def __init__(self) -> None:
        self._real, self.ahead_s = time.time, 0.0

    def __call__(self) -> float:
        return self._real() + self.ahead_s


class StoreMachine(RuleBasedStateMachine):
    """A server with its client, and workers that are run step by step."""

    models: Bundle[str] = Bundle("models")
    datasets: Bundle[str] = Bundle("datasets")
    searches: Bundle[str] = Bundle("searches")
    uploads: Bundle[tuple[str, bytes]] = Bundle("uploads")
    schedules: Bundle[str] = Bundle("schedules")

    postgres: PostgresServer | None = None

    def __init__(self) -> None:
        super().__init__()
        self._resources = contextlib.ExitStack()
        self._folder = Path(tempfile.mkdtemp(prefix="store-machine-"))
        self._resources.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._clock = Clock()
        self._resources.enter_context(mock.patch("time.time", self._clock))
        url = self.postgres.new_database() if self.postgres else f"sqlite:///{self._folder / 'store.db'}"
        self._options = {"lease_s": LEASE_S, "database_url": url, "shutdown_grace_s": 0.0, "run_schedules": False}
        self._database = Database(url)
        self._resources.callback(self._database.close)
        self._start()
        self._accepted: set[str] = set()
        self._deleted: set[str] = set()
        self._answers: dict[str, tuple[tuple[str, str], str]] = {}
        self._begun: dict[str, float] = {}
        self._number = 0

    def _start(self) -> None:
        self._server = InProcessServer(self._folder / "data", FakeImporter(), **self._options)
        self._server.__enter__()
        self._client = self._server.client(retry_s=0.0)

    def _stop(self) -> None:
        self._client.close()
        self._server.__exit__(None, None, None)

    # --- uploads

    @initialize(target=models)
    def first_model(self) -> str:
        """Searches need one."""
        return self.upload_model(b"first")

    @initialize(target=datasets)
    def first_dataset(self) -> str:
        """Searches need one."""
        return self.upload_dataset(b"first")

    @rule(target=models, content=CONTENTS)
    def another_model(self, content: bytes) -> Any:
        """A whole model, sound or not."""
        if content.startswith(b"bad"):
            with refused(grpc.StatusCode.INVALID_ARGUMENT):
                self.upload_model(content)
            return multiple()
        self._number += 1
        return self.upload_model(content + str(self._number).encode())  # the same bytes would be the same model

    def upload_model(self, content: bytes) -> str:
        """A whole model."""
        return self._client.upload_model(self._file(content), model_pb2.Model.ONNX).name

    @rule(target=datasets, content=st.sampled_from([b"first", b"second"]))
    def another_dataset(self, content: bytes) -> str:
        """A whole data set."""
        return self.upload_dataset(content)

    def upload_dataset(self, content: bytes) -> str:
        """A whole data set."""
        preprocessing = dataset_pb2.Preprocessing(height=28, width=28, channels=1)
        return self._client.upload_dataset(self._file(content), dataset_pb2.Dataset.NPZ, preprocessing).name

    @rule(target=uploads, content=CONTENTS)
    def begin_upload(self, content: bytes) -> tuple[str, bytes]:
        """A stream that breaks off."""
        self._number += 1
        upload_id = f"u{self._number}"
        content += upload_id.encode()  # what the project has already is not sent again
        with refused(grpc.StatusCode.ABORTED):
            self._send(upload_id, content, 0, content[:2])
        self._begun[upload_id] = self._clock.ahead_s
        return upload_id, content

    def _is_stale(self, upload_id: str) -> bool:
        """Whether the server may have forgotten it."""
        return self._clock.ahead_s - self._begun[upload_id] >= STALE_AFTER_S

    @rule(target=models, upload=consumes(uploads))
    def resume_upload(self, upload: tuple[str, bytes]) -> Any:
        """It goes on where it was; a bad file is refused and forgotten."""
        upload_id, content = upload
        if self._is_stale(upload_id):
            return multiple()
        with grpc.insecure_channel(self._server.address) as channel:
            stub = model_pb2_grpc.ModelServiceStub(channel)
            status = stub.QueryModelUpload(upload_pb2.QueryUploadRequest(parent=PARENT, upload_id=upload_id))
        assert status.committed_size_bytes == 2
        if content.startswith(b"bad"):
            with refused(grpc.StatusCode.INVALID_ARGUMENT):
                self._send(upload_id, content, 2, content[2:])
            return multiple()
        name = self._send(upload_id, content, 2, content[2:])
        assert self._send(upload_id, content, len(content), b"") == name
        return name

    @rule(upload=uploads)
    def lie_about_the_digest(self, upload: tuple[str, bytes]) -> None:
        """Another file under the id of a known upload."""
        if not self._is_stale(upload[0]):
            with refused(grpc.StatusCode.ABORTED):
                self._send(upload[0], upload[1] + b"more", 2, b"")

    def _file(self, content: bytes) -> Path:
        path = self._folder / "file"
        path.write_bytes(content)
        return path

    def _send(self, upload_id: str, content: bytes, offset: int, chunk: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        header = upload_pb2.UploadHeader(upload_id=upload_id, size_bytes=len(content), sha256=digest, offset=offset)
        model = model_pb2.Model(format=model_pb2.Model.ONNX)
        metadata = model_pb2.UploadModelMetadata(parent=PARENT, model=model, upload=header)
        messages = [model_pb2.UploadModelRequest(metadata=metadata)]
        messages += [model_pb2.UploadModelRequest(chunk=chunk)] if chunk else []
        with grpc.insecure_channel(self._server.address) as channel:
            return model_pb2_grpc.ModelServiceStub(channel).UploadModel(iter(messages)).name

    @rule(name=consumes(models))
    def delete_model(self, name: str) -> Any:
        """Refused while a search that has not ended needs it."""
        needed = any(s.model == name and s.state not in ENDED_STATES for s in self._client.list_searches())
        with refused(grpc.StatusCode.FAILED_PRECONDITION) if needed else contextlib.nullcontext():
            self._client.delete_model(name)
        return None

    # --- searches

    @rule(target=searches, model=models, dataset=datasets, request_id=REQUEST_IDS)
    def create_search(self, model: str, dataset: str, request_id: str) -> Any:
        """The same request id gives the same search, or is refused for another request."""
        known = self._answers.get(request_id) if request_id else None
        search = search_pb2.Search(model=model, dataset=dataset, target=f"{PARENT}/targets/cpu-ort-1t")
        search.budget.latency_ms, search.budget.max_accuracy_drop_points = 1.5, 1.0
        if known is not None and known[0] != (model, dataset):
            with refused(grpc.StatusCode.ALREADY_EXISTS):
                self._client.create_search(search, request_id=request_id)
            return multiple()
        try:
            created = self._client.create_search(search, request_id=request_id)
        except RequestRefusedError as error:
            gone = known is not None and known[1] in self._deleted
            missing = error.code is grpc.StatusCode.INVALID_ARGUMENT and not self._exists(model)
            assert gone or missing, error  # noqa: PT017 - either is right
            return multiple()
        if known is not None:
            assert created.name == known[1]
            return multiple()
        assert created.name not in self._accepted
        self._accepted.add(created.name)
        if request_id:
            self._answers[request_id] = ((model, dataset), created.name)
        return created.name

    def _exists(self, model: str) -> bool:
        try:
            self._client.get_model(model)
        except RequestRefusedError:
            return False
        return True

    @rule(name=searches)
    def cancel_search(self, name: str) -> None:
        """At once while it waits; never after its end."""
        before = self._get(name)
        if before is None:
            return
        after = self._client.cancel_search(name)
        if before.state == search_pb2.Search.QUEUED:
            assert after.state == search_pb2.Search.CANCELLED
        elif before.state == search_pb2.Search.RUNNING:
            # It ends at once where nobody works on it any more, and when its worker hears of it elsewhere.
            assert after.state in (search_pb2.Search.RUNNING, search_pb2.Search.CANCELLED)
        else:
            assert after.state == before.state

    @rule(name=searches)
    def extend_search(self, name: str) -> None:
        """Only what has ended."""
        before = self._get(name)
        if before is None:
            return
        if before.state not in ENDED_STATES:
            with refused(grpc.StatusCode.FAILED_PRECONDITION):
                self._client.extend_search(name, 1)
            return
        after = self._client.extend_search(name, 1)
        assert (after.state, after.effort.max_trials) == (search_pb2.Search.QUEUED, before.effort.max_trials + 1)
        assert after.candidate_count == before.candidate_count

    @rule(name=searches)
    def delete_search(self, name: str) -> None:
        """Only what has ended."""
        before = self._get(name)
        if before is None:
            return
        if before.state not in ENDED_STATES:
            with refused(grpc.StatusCode.FAILED_PRECONDITION):
                self._client.delete_search(name)
            return
        self._client.delete_search(name)
        self._deleted.add(name)

    @rule(name=searches)
    def change_with_an_old_etag(self, name: str) -> None:
        """Nothing happens."""
        if self._get(name) is not None:
            with refused(grpc.StatusCode.ABORTED):
                self._client.cancel_search(name, etag="0-0")

    @rule(page_size=st.integers(1, 3))
    def list_searches(self, page_size: int) -> None:
        """Every search once, the newest first, whatever the page's size."""
        names = [search.name for search in self._client.list_searches(page_size)]
        assert len(set(names)) == len(names)
        assert set(names) == self._accepted - self._deleted

    @rule(name=searches)
    def watch(self, name: str) -> None:
        """Every event once and in order, up to the end."""
        search = self._get(name)
        if search is not None and search.state in ENDED_STATES:
            assert [event.sequence for event in self._client.watch(name)] == list(range(1, search.last_sequence + 1))

    def _get(self, name: str) -> search_pb2.Search | None:
        if name in self._deleted:
            with refused(grpc.StatusCode.NOT_FOUND):
                self._client.get_search(name)
            return None
        return self._client.get_search(name)

    # --- schedules

    @rule(
        target=schedules,
        model=models,
        dataset=datasets,
        cron=st.sampled_from(["* * * * *", "0 * * * *", "30 2 * * *"]),
        misfire=st.sampled_from([Schedule.RUN_ONCE, Schedule.SKIP_MISSED, Schedule.RUN_ALL]),
        overlap=st.sampled_from([Schedule.SKIP, Schedule.QUEUE, Schedule.CANCEL_PREVIOUS]),
    )
    def create_schedule(self, model: str, dataset: str, cron: str, misfire: Any, overlap: Any) -> Any:
        """Due at the next time of its line."""
        search = search_pb2.Search(model=model, dataset=dataset, target=f"{PARENT}/targets/cpu-ort-1t")
        search.budget.latency_ms, search.budget.max_accuracy_drop_points = 1.5, 1.0
        asked = Schedule(cron=cron, time_zone="Europe/Berlin", misfire_policy=misfire, overlap_policy=overlap, template=search)
        if not self._exists(model):
            with refused(grpc.StatusCode.INVALID_ARGUMENT):
                self._client.create_schedule(asked)
            return multiple()
        return self._client.create_schedule(asked).name

    @rule(servers=st.integers(1, 2))
    def schedules_come_due(self, servers: int) -> None:
        """Whoever looks, and however many at once: nothing that has come is left, and every run has a search of its own."""
        with ThreadPoolExecutor(servers) as threads:
            list(threads.map(lambda _: self._scheduler().run_due(self._clock()), range(servers)))
        self._take_in_scheduled()
        now = self._clock()
        assert all(
            s.next_run_time.ToNanoseconds() / 1e9 > now for s in self._client.list_schedules() if s.HasField("next_run_time")
        )

    def _scheduler(self) -> Scheduler:
        models, datasets = InputStore(self._database, "model"), InputStore(self._database, "dataset")
        maker = SearchMaker(models, datasets, Estimator(PredictorFiles(self._folder / "targets"), 1, 40.0))
        return Scheduler(ScheduleStore(self._database), ScheduleRuns(self._database, maker.make))

    def _take_in_scheduled(self) -> None:
        """Searches that runs have made since the last look."""
        made = []
        for schedule in self._client.list_schedules():
            runs = list(self._client.list_schedule_runs(schedule.name))
            due_times = [run.due_time.ToNanoseconds() for run in runs]
            assert len(set(due_times)) == len(due_times)
            made += [run.search for run in runs if run.state == schedule_pb2.ScheduleRun.SEARCH_CREATED]
        assert len(set(made)) == len(made)
        self._accepted |= set(made)

    @rule(target=searches, name=schedules)
    def run_schedule(self, name: str) -> Any:
        """Now, and once only."""
        self._number += 1
        if self._schedule(name) is None:
            return multiple()
        runs = [self._client.run_schedule(name, request_id=f"run{self._number}") for _ in range(2)]
        assert runs[0].name == runs[1].name
        self._take_in_scheduled()
        return runs[0].search if runs[0].state == schedule_pb2.ScheduleRun.SEARCH_CREATED else multiple()

    @rule(name=schedules, paused=st.booleans())
    def pause_or_resume(self, name: str, paused: bool) -> None:
        """What rests is not due."""
        if self._schedule(name) is not None:
            change = self._client.pause_schedule if paused else self._client.resume_schedule
            assert change(name).HasField("next_run_time") is not paused

    @rule(name=schedules, cron=st.sampled_from(["*/5 * * * *", "0 0 * * *"]))
    def update_schedule(self, name: str, cron: str) -> None:
        """Due at the times of the new line; a template whose model has gone cannot be kept."""
        schedule = self._schedule(name)
        if schedule is None:
            return
        if self._exists(schedule.template.model):
            assert self._client.update_schedule(Schedule(name=name, cron=cron), ["cron"]).cron == cron
        else:
            with refused(grpc.StatusCode.INVALID_ARGUMENT):
                self._client.update_schedule(Schedule(name=name, cron=cron), ["cron"])

    @rule(name=consumes(schedules))
    def delete_schedule(self, name: str) -> None:
        """Its searches stay."""
        if self._schedule(name) is not None:
            self._client.delete_schedule(name)

    def _schedule(self, name: str) -> Schedule | None:
        return next((schedule for schedule in self._client.list_schedules() if schedule.name == name), None)

    # --- workers

    @rule(how=st.sampled_from(["finds", "finds", "refuses", "breaks", "is cancelled", "is stopped", "loses its lease"]))
    def work(self, how: str) -> None:
        """A worker takes the next search, and something happens to it."""
        self._number += 1
        worker = self._worker(self._script(how, lambda: worker.stop()))
        worker.run_next()

    def _worker(self, run: Callable[[SearchSpec, SearchEnvironment], SearchOutcome]) -> Worker:
        return Worker(self._server.settings, self._database, FakeTools(run), f"worker {self._number}")

    def _script(self, how: str, stop: Callable[[], None]) -> Callable[[SearchSpec, SearchEnvironment], SearchOutcome]:
        def run(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
            store = environment.store
            store.save_candidate(record(len(store.candidates()) + 100), [Event("candidate", "one more")])
            if how == "refuses":
                raise SearchError("cannot be done")
            if how == "breaks":
                raise RuntimeError("unforeseen")
            if how in ("is cancelled", "is stopped"):
                stop() if how == "is stopped" else self._client.cancel_search(environment.search_name)
                assert store.should_stop()
                return SearchOutcome("CANCELLED", "stopped")
            if how == "loses its lease":
                self._clock.ahead_s += LEASE_S + 1
                if self._claim_as("another worker") == environment.search_name:
                    with pytest.raises(LeaseLostError):
                        store.append(Event("warning", "too late"))
            return finds_three(spec, environment)

        return run

    @rule()
    def worker_dies(self) -> None:
        """A worker takes a search, writes something and is never heard of again."""
        self._number += 1
        self._claim_as(f"dead worker {self._number}")

    def _claim_as(self, owner: str) -> str:
        claimed = SearchQueue(self._database, owner, LEASE_S).claim()
        if claimed is not None:
            store = SqlCandidateStore(self._database, claimed.search_id, owner)
            store.save_candidate(record(len(store.candidates()) + 100), [Event("candidate", "the last that was heard")])
        return claimed.name if claimed else ""

    # --- everything else

    @precondition(lambda self: self._clock.ahead_s < 20 * DAY_S)  # answers to request ids are kept for 30 days
    @rule(seconds=st.sampled_from([1.0, LEASE_S + 1, 3600.0, 8 * 24 * 3600.0]))
    def time_passes(self, seconds: float) -> None:
        """Leases end."""
        self._clock.ahead_s += seconds

    @rule()
    def collect(self) -> None:
        """Only searches that ended long ago go, and nothing that a remaining one refers to."""
        before = {search.name: search for search in self._client.list_searches()}
        settings, policy = self._server.settings, RetentionPolicy(searches_s=2 * DAY_S)
        uploads = UploadStore(self._database, settings.uploads_dir, settings.max_upload_bytes)
        Collector(self._database, blob_store(settings), uploads, settings.work_dir, policy, wait=lambda _: False).collect()
        left = {search.name for search in self._client.list_searches()}
        for name in set(before) - left:
            assert before[name].state in ENDED_STATES
            assert self._clock() - before[name].end_time.ToDatetime(UTC).timestamp() > 2 * DAY_S
            self._deleted.add(name)
        for name in left:
            if before[name].state == search_pb2.Search.SUCCEEDED:
                self._client.download_artifact(before[name].best, "model.onnx", self._folder / "best")

    @rule()
    def restart_server(self) -> None:
        """What it has answered is still so."""
        before = self._answered()
        self._stop()
        self._start()
        assert self._answered() == before

    def _answered(self) -> dict[str, bytes]:
        stored = [*self._client.list_searches(), *self._client.list_schedules()]
        return {one.name: one.SerializeToString(deterministic=True) for one in stored}

    @invariant()
    def store_is_sound(self) -> None:
        """No sentence of the checker."""
        with self._database.read() as session:
            assert violations(session) == []

    def teardown(self) -> None:
        """Every search that was accepted ends, once workers live on."""
        try:
            self._clock.ahead_s += LEASE_S + 1
            self._number += 1
            while self._worker(finds_three).run_next():
                pass
            left = {search.name: search.state for search in self._client.list_searches()}
            assert set(left) == self._accepted - self._deleted
            assert all(state in ENDED_STATES for state in left.values()), left
            self.store_is_sound()
        finally:
            self._stop()
            self._resources.close()


@contextlib.contextmanager
def refused(code: grpc.StatusCode) -> Iterator[None]:
    """The call inside must be refused with this code."""
    try:
        yield
    except RequestRefusedError as error:
        assert error.code is code, error  # noqa: PT017 - both kinds of client
    except grpc.RpcError as error:
        assert error.code() is code, error  # noqa: PT017
    else:
        raise AssertionError(f"the call was not refused with {code.name}")


@pytest.mark.timeout(600)  # a busy machine: what is cut off in the middle looks like a strategy that changes its mind
class TestStoreMachine(StoreMachine.TestCase):  # type: ignore[name-defined,misc]
    """Run by pytest."""

    settings = (
        settings()
        if LONG
        else settings(max_examples=6, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    )

    @classmethod
    def setUpClass(cls) -> None:
        """A PostgreSQL, where it is asked for."""
        cls._resources = contextlib.ExitStack()
        if os.environ.get("PARETOPRESS_TEST_DATABASE") == "postgresql":
            folder = Path(cls._resources.enter_context(tempfile.TemporaryDirectory(prefix="postgresql-")))
            folder.chmod(0o755)
            StoreMachine.postgres = cls._resources.enter_context(PostgresServer(folder / "server"))

    @classmethod
    def tearDownClass(cls) -> None:
        """End it."""
        StoreMachine.postgres = None
        cls._resources.close()
