from __future__ import annotations

import threading
import time
from pathlib import Path

import grpc
import pytest

from paretopress.errors import RequestRefusedError
from paretopress.v1 import search_pb2
from search.environment import SearchEnvironment, SearchOutcome
from search.errors import BaselineError
from search.spec import SearchSpec
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter, FakeTools, RunsUntilStopped
from tests.waiting import wait_until

NAN = float("nan")
State = search_pb2.Search


def fields_of(error: pytest.ExceptionInfo[RequestRefusedError]) -> set[str]:
    return {problem.field for problem in error.value.problems}


def test_a_search_runs_to_its_end_and_everything_can_be_read(working_server: InProcessServer, tmp_path: Path) -> None:
    with working_server.client() as client:
        created = client.create_search(upload_inputs(client, tmp_path), search_id="first")
        assert created.name == "projects/default/searches/first"
        events = list(client.watch(created.name))
        ended = client.get_search(created.name)

        assert [e.sequence for e in events] == list(range(1, len(events) + 1)) == list(range(1, ended.last_sequence + 1))
        assert ended.state == State.SUCCEEDED
        assert ended.best.endswith("/candidates/c0002")
        assert [n[-5:] for n in ended.front] == ["c0002", "c0001", "c0000"]
        assert ended.candidate_count == 3
        assert events[-1].payload["state"] == "SUCCEEDED"
        assert events[-2].payload["worst"] == "inf"

        candidate = client.get_candidate(ended.best)
        assert candidate.measurements["latency_ms"].source == candidate.measurements["latency_ms"].MEASURED
        assert candidate.accuracies["selection"].drop_points == pytest.approx(0.4)
        path = client.download_artifact(candidate.name, "model.onnx", tmp_path / "best.onnx")
        assert path.read_bytes() == b"onnx" * 1000
        report = client.download_artifact(ended.name, "report.json", tmp_path / "report.json")
        assert report.read_text() == '{"version": 1}'


def test_watching_replays_from_a_sequence_number(working_server: InProcessServer, tmp_path: Path) -> None:
    with working_server.client() as client:
        created = client.create_search(upload_inputs(client, tmp_path))
        every = [e.sequence for e in client.watch(created.name)]
        assert [e.sequence for e in client.watch(created.name, after_sequence=3)] == every[3:]


def test_every_bad_field_is_told_at_once(server: InProcessServer, tmp_path: Path) -> None:
    bad = search_pb2.Search(
        model="projects/default/models/nowhere",
        dataset="not a name",
        target="projects/default/targets/toaster",
        budget=search_pb2.Budget(latency_ms=NAN, size_bytes=-1, macs=0, max_accuracy_drop_points=-2, confidence=2, size_kind=99),
        expected_accuracy=1.5,
        metric=77,
        effort=search_pb2.Effort(max_trials=-3, seed=-1, max_epochs=NAN),
    )
    with server.client() as client, pytest.raises(RequestRefusedError) as error:
        client.create_search(bad, search_id="No!")
    assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.reason == "INVALID_FIELDS"
    assert error.value.request_id
    assert fields_of(error) == {
        "search_id",
        "search.model",
        "search.dataset",
        "search.target",
        "search.budget.latency_ms",
        "search.budget.size_bytes",
        "search.budget.macs",
        "search.budget.max_accuracy_drop_points",
        "search.budget.confidence",
        "search.budget.size_kind",
        "search.expected_accuracy",
        "search.metric",
        "search.effort.max_trials",
        "search.effort.seed",
        "search.effort.max_epochs",
    }


def test_contradictions_between_model_data_and_request(server: InProcessServer, tmp_path: Path) -> None:
    with server.client() as client:
        request = upload_inputs(client, tmp_path)
        request.expected_accuracy = 0.05
        request.preference = search_pb2.SMALLEST
        request.budget.ClearField("max_accuracy_drop_points")
        with pytest.raises(RequestRefusedError) as error:
            client.create_search(request)
    assert fields_of(error) == {"search.expected_accuracy", "search.budget.max_accuracy_drop_points"}


def test_validate_only_estimates_and_stores_nothing(server: InProcessServer, tmp_path: Path) -> None:
    with server.client() as client:
        request = upload_inputs(client, tmp_path)
        all_of_it = client.validate_search(request).estimated_duration.ToTimedelta().total_seconds()
        assert 1500 < all_of_it < 1900, "what trials leave of the time trains the few that are left"
        request.effort.max_epochs = 1.0
        estimate = client.validate_search(request).estimated_duration.ToTimedelta().total_seconds()
        request.effort.max_trials = 200
        longer = client.validate_search(request).estimated_duration.ToTimedelta().total_seconds()
        assert 0 < estimate < longer
        assert list(client.list_searches()) == []


def test_the_same_request_id_gives_the_same_search(server: InProcessServer, tmp_path: Path) -> None:
    with server.client() as client:
        request = upload_inputs(client, tmp_path)
        first = client.create_search(request, request_id="once")
        assert client.create_search(request, request_id="once").name == first.name
        request.budget.latency_ms = 99
        with pytest.raises(RequestRefusedError) as error:
            client.create_search(request, request_id="once")
        assert error.value.code is grpc.StatusCode.ALREADY_EXISTS
        assert len(list(client.list_searches())) == 1


def test_pages_are_whole_and_tokens_are_checked(server: InProcessServer, tmp_path: Path) -> None:
    with server.client() as client:
        request = upload_inputs(client, tmp_path)
        names = [client.create_search(request).name for _ in range(5)]
        assert [s.name for s in client.list_searches(page_size=2)] == names[::-1]
        stub = client._searches
        page = stub.ListSearches(search_pb2.ListSearchesRequest(parent="projects/default", page_size=2))
        foreign = search_pb2.ListSearchesRequest(parent="projects/other", page_token=page.next_page_token)
        for request_with_bad_token in (foreign, search_pb2.ListSearchesRequest(parent="projects/default", page_token="junk")):
            with pytest.raises(grpc.RpcError) as error:
                stub.ListSearches(request_with_bad_token)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_queued_search_is_cancelled_at_once_and_can_be_deleted(server: InProcessServer, tmp_path: Path) -> None:
    with server.client() as client:
        created = client.create_search(upload_inputs(client, tmp_path))
        with pytest.raises(RequestRefusedError) as error:
            client.delete_search(created.name)
        assert error.value.code is grpc.StatusCode.FAILED_PRECONDITION
        assert client.cancel_search(created.name).state == State.CANCELLED
        with pytest.raises(RequestRefusedError) as error:
            client.delete_search(created.name, etag=created.etag)
        assert error.value.code is grpc.StatusCode.ABORTED
        client.delete_search(created.name)
        with pytest.raises(RequestRefusedError) as error:
            client.get_search(created.name)
        assert error.value.code is grpc.StatusCode.NOT_FOUND


def test_a_running_search_is_cancelled_within_seconds_and_keeps_its_candidates(tmp_path: Path) -> None:
    run = RunsUntilStopped()
    with InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(run)) as server, server.client() as client:
        created = client.create_search(upload_inputs(client, tmp_path))
        assert run.started.wait(10)
        begin = time.monotonic()
        client.cancel_search(created.name)
        ended = client.wait(created.name)
        assert time.monotonic() - begin < 3
        assert ended.state == State.CANCELLED
        assert ended.candidate_count == 1


def test_a_stopped_worker_lets_go_and_the_next_one_resumes(tmp_path: Path) -> None:
    run = RunsUntilStopped()
    with InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(run)) as server, server.client() as client:
        created = client.create_search(upload_inputs(client, tmp_path))
        assert run.started.wait(10)
        server.stop_worker()
        assert client.get_search(created.name).state == State.RUNNING
        server.start_worker(FakeTools(run), owner="another")
        assert wait_until(lambda: client.get_search(created.name).candidate_count == 2, 10)
        client.cancel_search(created.name)
        assert client.wait(created.name).candidate_count == 2
        assert run.runs == 2


def test_a_search_that_cannot_be_carried_out_fails_with_its_reason(tmp_path: Path) -> None:
    def run(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
        raise BaselineError("accuracy 0.1 is near chance; check mean and std of the preprocessing")

    with InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(run)) as server, server.client() as client:
        ended = client.wait(client.create_search(upload_inputs(client, tmp_path)).name)
        assert ended.state == State.FAILED
        assert "preprocessing" in ended.state_message


def test_an_unforeseen_error_keeps_its_details_to_the_log(tmp_path: Path) -> None:
    def run(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
        raise ZeroDivisionError("secret detail")

    with InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(run)) as server, server.client() as client:
        ended = client.wait(client.create_search(upload_inputs(client, tmp_path)).name)
        assert ended.state == State.FAILED
        assert "secret" not in ended.state_message


def test_infeasible_names_the_nearest_and_what_it_breaks(tmp_path: Path) -> None:
    def run(spec: SearchSpec, environment: SearchEnvironment) -> SearchOutcome:
        return SearchOutcome("INFEASIBLE", "nothing fits", nearest="c0001", broken_limits={"latency_ms": 0.5})

    with InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(run)) as server, server.client() as client:
        ended = client.wait(client.create_search(upload_inputs(client, tmp_path)).name)
        assert ended.state == State.INFEASIBLE
        assert ended.nearest.endswith("/candidates/c0001")
        assert [(b.limit, b.excess) for b in ended.broken_limits] == [("latency_ms", 0.5)]


def test_pick_best_under_another_budget(working_server: InProcessServer, tmp_path: Path) -> None:
    with working_server.client() as client:
        name = client.create_search(upload_inputs(client, tmp_path)).name
        with pytest.raises(RequestRefusedError) as error:
            client.pick_best(name, search_pb2.Budget(latency_ms=-1))
        assert fields_of(error) == {"budget.latency_ms"}
        client.wait(name)
        accurate = client.pick_best(name, search_pb2.Budget(max_accuracy_drop_points=0.3), search_pb2.FASTEST)
        assert accurate.feasible
        assert accurate.candidate.name.endswith("c0001")
        impossible = client.pick_best(name, search_pb2.Budget(latency_ms=0.5))
        assert not impossible.feasible
        assert [b.limit for b in impossible.broken_limits] == ["latency_ms"]


def test_extend_runs_again_with_more_trials(working_server: InProcessServer, tmp_path: Path) -> None:
    with working_server.client() as client:
        name = client.create_search(upload_inputs(client, tmp_path)).name
        before = client.wait(name)
        extended = client.extend_search(name, 5, 60)
        assert extended.effort.max_trials == before.effort.max_trials + 5
        assert client.wait(name).state == State.SUCCEEDED
        with pytest.raises(RequestRefusedError) as error:
            client.extend_search(name, 0)
        assert fields_of(error) == {"additional_trials"}


def test_candidates_in_pages_and_front_only(working_server: InProcessServer, tmp_path: Path) -> None:
    with working_server.client() as client:
        name = client.create_search(upload_inputs(client, tmp_path)).name
        client.wait(name)
        assert [c.trial_number for c in client.list_candidates(name, page_size=1)] == [-1, 0, 1, 2]
        assert [c.trial_number for c in client.list_candidates(name, front_only=True)] == [0, 1, 2]


def test_a_watcher_sees_events_while_they_happen(tmp_path: Path) -> None:
    run = RunsUntilStopped()
    with InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(run)) as server, server.client() as client:
        name = client.create_search(upload_inputs(client, tmp_path)).name
        seen: list[int] = []
        watcher = threading.Thread(target=lambda: seen.extend(e.sequence for e in client.watch(name)))
        watcher.start()
        assert run.started.wait(10)
        client.cancel_search(name)
        watcher.join(10)
        assert seen == list(range(1, client.get_search(name).last_sequence + 1))
