from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest

from hw_models.errors import CalibrationError
from hw_models.targets import Target, builtin_targets
from paretopress.errors import RequestRefusedError
from paretopress.v1 import target_pb2
from search.spec import Budget, SearchSpec
from service.settings import Settings
from service.store.calibration_catalogue import CalibrationCatalogue, NewCalibration
from service.store.calibration_queue import MAX_ATTEMPTS, CalibrationQueue
from service.store.database import Database
from service.store.search_catalogue import NewSearch, SearchCatalogue
from service.store.search_queue import process_identity
from service.targets.calibrating import AtMostTwiceASecond, Calibrator, Progress, ShouldStop
from service.targets.predictors import IDLE_TARGETS, PredictorFiles, PredictorSummary
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import (
    FakeImporter,
    FakeTools,
    MeasuresUntilStopped,
    calibrated_predictor,
    finds_three,
    measures_at_once,
)
from tests.waiting import wait_until

TARGET = "projects/default/targets/cpu-ort-1t"
NAME = f"{TARGET}/calibrations/c"
SUMMARY = PredictorSummary(100, 3.5, None, 40.0, "onnxruntime 1.0", 1e9)
State = target_pb2.Calibration


def queued(database: Database, name: str = NAME) -> CalibrationCatalogue:
    catalogue = CalibrationCatalogue(database)
    catalogue.create(NewCalibration(name, "default", TARGET, 30.0))
    return catalogue


def test_a_calibration_gives_the_target_a_new_predictor(tmp_path: Path) -> None:
    budgets: list[float] = []

    def measure(target: Target, budget_s: float, should_stop: ShouldStop, progress: Progress) -> str:
        budgets.append(budget_s)
        return calibrated_predictor(target, networks=int(budget_s)).to_json()

    with InProcessServer(tmp_path, FakeImporter(), FakeTools(finds_three, measure)) as server, server.client() as client:
        calibration = client.calibrate_target(TARGET, 60)
        assert calibration.name.startswith(f"{TARGET}/calibrations/c-")
        *_, ended = client.watch_calibration(calibration.name)
        assert (ended.state, ended.progress, ended.summary.networks) == (State.SUCCEEDED, 1.0, 60)
        assert ended.budget_duration.seconds == 60
        assert ended.create_time.seconds <= ended.start_time.seconds <= ended.end_time.seconds
        assert "60 networks" in ended.message
        assert client.get_target(TARGET).calibration.networks == 60
        *_, full = client.watch_calibration(client.calibrate_target(TARGET).name)
        assert client.get_target(TARGET).calibration == full.summary
        assert [c.name for c in client.list_calibrations(TARGET, page_size=1)] == [full.name, ended.name]
        assert 60 in budgets
        assert 300 in budgets


def test_the_same_request_id_gives_the_same_calibration(tmp_path: Path) -> None:
    with InProcessServer(tmp_path, FakeImporter()) as server, server.client() as client:
        first = client.calibrate_target(TARGET, request_id="once")
        assert client.calibrate_target(TARGET, request_id="once").name == first.name
        assert first.state == State.QUEUED


def test_only_attached_targets_can_be_calibrated_for_a_sensible_time(tmp_path: Path) -> None:
    with InProcessServer(tmp_path, FakeImporter()) as server, server.client() as client:
        with pytest.raises(RequestRefusedError, match="cpu-ort-all") as error:
            client.calibrate_target("projects/default/targets/nvidia-t4")
        assert error.value.code is grpc.StatusCode.FAILED_PRECONDITION
        for seconds in (9.0, 901.0, -1.0):
            with pytest.raises(RequestRefusedError) as error:
                client.calibrate_target(TARGET, seconds)
            assert [p.field for p in error.value.problems] == ["budget_duration"]
        for missing in (f"{TARGET}/calibrations/none", "projects/default/targets/toaster/calibrations/none"):
            with pytest.raises(RequestRefusedError) as error:
                client.get_calibration(missing)
            assert error.value.code is grpc.StatusCode.NOT_FOUND


def test_a_running_calibration_tells_its_progress_and_can_be_cancelled(tmp_path: Path) -> None:
    measure = MeasuresUntilStopped()
    with InProcessServer(tmp_path, FakeImporter(), FakeTools(finds_three, measure)) as server, server.client() as client:
        name = client.calibrate_target(TARGET).name
        assert wait_until(lambda: client.get_calibration(name).state == State.RUNNING)
        assert measure.started.wait(10)
        running = client.get_calibration(name)
        assert (running.progress, running.message) == (0.25, "10 networks, round 1 of 3")
        client.cancel_calibration(name)
        *_, ended = client.watch_calibration(name)
        assert ended.state == State.CANCELLED
        assert not client.get_target(TARGET).calibrated
        assert client.cancel_calibration(name) == ended


def test_a_waiting_calibration_is_cancelled_at_once(tmp_path: Path) -> None:
    with InProcessServer(tmp_path, FakeImporter()) as server, server.client() as client:
        assert client.cancel_calibration(client.calibrate_target(TARGET).name).state == State.CANCELLED


def test_a_stopped_worker_lets_go_and_the_next_one_begins_again(tmp_path: Path) -> None:
    measure = MeasuresUntilStopped()
    with InProcessServer(tmp_path, FakeImporter(), FakeTools(finds_three, measure)) as server, server.client() as client:
        name = client.calibrate_target(TARGET).name
        assert wait_until(lambda: client.get_calibration(name).state == State.RUNNING)
        server.stop_worker()
        waiting = client.get_calibration(name)
        assert (waiting.state, waiting.progress) == (State.QUEUED, 0.0)
        server.start_worker(FakeTools(finds_three), owner="another")
        *_, ended = client.watch_calibration(name)
        assert ended.state == State.SUCCEEDED


def test_a_failure_is_told_and_the_old_predictor_stays(tmp_path: Path) -> None:
    def measure(target: Target, budget_s: float, should_stop: ShouldStop, progress: Progress) -> str:
        if budget_s > 100:
            raise CalibrationError("only 3 networks measured")
        return "nonsense" if budget_s > 50 else calibrated_predictor(target).to_json()

    with InProcessServer(tmp_path, FakeImporter(), FakeTools(finds_three, measure)) as server, server.client() as client:
        for seconds, state, words in (
            (20, State.SUCCEEDED, "100 networks"),
            (200, State.FAILED, "only 3"),
            (60, State.FAILED, "not a"),
        ):
            *_, ended = client.watch_calibration(client.calibrate_target(TARGET, seconds).name)
            assert ended.state == state
            assert words in ended.message
            assert client.get_target(TARGET).calibration.networks == 100


def test_a_calibration_whose_worker_died_is_queued_again_from_its_beginning(database: Database) -> None:
    catalogue = queued(database)
    dead = CalibrationQueue(database, process_identity().rpartition("|")[0] + "|1", 1000.0)
    first = dead.claim()
    assert first is not None
    assert dead.tell(first.calibration_id, 0.5, "half")
    living = CalibrationQueue(database, process_identity(), 10.0)
    again = living.claim()
    assert again == first
    assert (catalogue.get(NAME).state, catalogue.get(NAME).progress) == ("RUNNING", 0.0)
    assert dead.should_stop(first.calibration_id)
    assert not dead.tell(first.calibration_id, 0.6, "late")
    dead.finish(first.calibration_id, SUMMARY, "late")
    assert catalogue.get(NAME).state == "RUNNING"
    assert living.claim() is None
    living.finish(first.calibration_id, SUMMARY, "done")
    assert (catalogue.get(NAME).state, catalogue.get(NAME).summary) == ("SUCCEEDED", SUMMARY)


def test_a_calibration_that_kills_its_workers_is_given_up(database: Database) -> None:
    catalogue = queued(database)
    for attempt in range(MAX_ATTEMPTS):
        assert CalibrationQueue(database, f"worker {attempt}", -1.0).claim() is not None
    assert CalibrationQueue(database, "last", 10.0).claim() is None
    assert catalogue.get(NAME).state == "FAILED"


def test_a_worker_that_is_told_to_end_does_not_use_up_an_attempt(database: Database) -> None:
    catalogue = queued(database)
    for attempt in range(2 * MAX_ATTEMPTS):
        queue = CalibrationQueue(database, f"worker {attempt}", 10.0)
        claimed = queue.claim()
        assert claimed is not None
        queue.let_go(claimed.calibration_id)
        assert catalogue.get(NAME).state == "QUEUED"


def test_a_cancelled_calibration_whose_worker_died_is_not_queued_again(database: Database) -> None:
    catalogue = queued(database)
    assert CalibrationQueue(database, "gone", -1.0).claim() is not None
    catalogue.cancel(NAME)
    assert CalibrationQueue(database, "next", 10.0).claim() is None
    assert catalogue.get(NAME).state == "CANCELLED"


def calibrator(database: Database, folder: Path, tools: FakeTools, stopping: ShouldStop = lambda: False) -> Calibrator:
    settings = Settings(data_dir=folder, database_url=database.url)
    return Calibrator(settings, database, tools.calibrate, "me", stopping)


def add_search(database: Database, target: str) -> None:
    spec = SearchSpec("a" * 64, "b" * 64, target, Budget(latency_ms=1.0, max_accuracy_drop_points=1.0))
    SearchCatalogue(database).create(NewSearch("projects/p/searches/s", "p", "", "m", "d", spec, 60.0), "", "")


def test_an_idle_worker_calibrates_the_usual_targets_only_once(database: Database, tmp_path: Path) -> None:
    tools = FakeTools(finds_three)
    worker = calibrator(database, tmp_path, tools)
    for _ in range(4):
        worker.run_idle()
    assert tools.calibrated == list(IDLE_TARGETS)
    assert len(builtin_targets()) > len(IDLE_TARGETS)


@pytest.mark.parametrize("waits", ["search", "calibration"])
def test_idle_work_gives_way_to_what_comes_to_wait(database: Database, tmp_path: Path, waits: str) -> None:
    tools = FakeTools(finds_three, MeasuresUntilStopped())
    worker = calibrator(database, tmp_path, tools)
    PredictorFiles(tmp_path / "targets").write("cpu-ort-1t", calibrated_predictor(builtin_targets()[0]).to_json())
    add_search(database, "cpu-ort-1t") if waits == "search" else queued(database)
    worker.run_idle()
    assert tools.calibrated == ["cpu-ort-all"]
    assert not worker.predictors.exists("cpu-ort-all")


def test_idle_work_goes_on_where_the_waiting_search_needs_it(database: Database, tmp_path: Path) -> None:
    worker = calibrator(database, tmp_path, FakeTools(finds_three))
    add_search(database, "cpu-ort-1t")
    worker.run_idle()
    assert worker.predictors.exists("cpu-ort-1t")


def test_a_failing_idle_calibration_is_not_tried_over_and_over(database: Database, tmp_path: Path) -> None:
    def measure(target: Target, budget_s: float, should_stop: ShouldStop, progress: Progress) -> str:
        raise ZeroDivisionError

    tools = FakeTools(finds_three, measure)
    worker = calibrator(database, tmp_path, tools)
    worker.run_idle()
    worker.run_idle()
    assert tools.calibrated == ["cpu-ort-1t"]


def test_progress_is_written_at_most_twice_a_second(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    def measure(target: Target, budget_s: float, should_stop: ShouldStop, progress: Progress) -> str:
        begin = time.monotonic()
        while time.monotonic() - begin < 1.2:
            progress(0.5, "on the way")
            time.sleep(0.01)
        return measures_at_once(target, budget_s, should_stop, progress)

    monkeypatch.setattr(CalibrationQueue, "tell", lambda self, number, fraction, message: told.append(fraction))
    catalogue = queued(database)
    assert calibrator(database, tmp_path, FakeTools(finds_three, measure)).run_next()
    assert catalogue.get(NAME).state == "SUCCEEDED"
    assert 2 <= len(told) <= 3


def test_a_yes_stays_a_yes() -> None:
    answers = iter([True, False])
    ask = AtMostTwiceASecond(lambda: next(answers))
    assert ask()
    assert ask()


def test_a_search_that_is_cancelled_while_its_target_is_calibrated_ends(tmp_path: Path) -> None:
    measure = MeasuresUntilStopped()
    (tmp_path / "files").mkdir()
    with InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(finds_three, measure)) as server, server.client() as client:
        name = client.create_search(upload_inputs(client, tmp_path / "files")).name
        assert measure.started.wait(10)
        client.cancel_search(name)
        assert client.wait(name).state == client.get_search(name).CANCELLED
