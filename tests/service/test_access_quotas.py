from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from paretopress.errors import RequestRefusedError, from_rpc_error
from paretopress.v1 import model_pb2, model_pb2_grpc, search_pb2, search_pb2_grpc
from search.spec import Budget, Effort, SearchSpec
from service.access.rates import CallRate, OpenStreams
from service.errors import QuotaExceededError, RateLimitedError, describe_error, to_status
from service.store.database import Database
from service.store.input_store import InputStore, NewInput
from service.store.quotas import Quotas
from service.store.schema import SearchRow
from service.store.search_catalogue import NewSearch, SearchCatalogue
from service.store.upload_store import UploadSpec, UploadStore
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter, model_facts


def new_search(number: int, project: str = "p", hours: float = 0.5) -> NewSearch:
    effort = Effort(max_wall_time_s=hours * 3600)
    spec = SearchSpec("a" * 64, "b" * 64, "cpu-ort-1t", Budget(latency_ms=1.0, max_accuracy_drop_points=1.0), effort)
    return NewSearch(f"projects/{project}/searches/s{number}", project, "", "m", "d", spec, 60.0)


def test_searches_are_counted_in_the_transaction_that_makes_them(database: Database) -> None:
    searches = SearchCatalogue(database, Quotas(concurrent_searches=3))
    ends: list[str] = []

    def create(number: int) -> None:
        try:
            searches.create(new_search(number), "", "")
            ends.append("made")
        except QuotaExceededError:
            ends.append("refused")

    threads = [threading.Thread(target=create, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (ends.count("made"), ends.count("refused")) == (3, 9)
    searches.create(new_search(0, "q"), "", "")


def test_a_search_that_ended_makes_room_and_extending_needs_it(database: Database) -> None:
    searches = SearchCatalogue(database, Quotas(concurrent_searches=1))
    first = searches.create(new_search(1), "", "")
    with pytest.raises(QuotaExceededError, match="1 searches that wait or run, and may have 1"):
        searches.create(new_search(2), "", "")
    searches.cancel(first.name)
    second = searches.create(new_search(2), "", "")
    with pytest.raises(QuotaExceededError):
        searches.extend(first.name, 1, 60.0, "", "", "")
    searches.cancel(second.name)
    assert searches.extend(first.name, 1, 60.0, "", "", "").state == "QUEUED"


def test_trial_hours_are_what_may_be_taken_and_afterwards_what_was(database: Database) -> None:
    searches = SearchCatalogue(database, Quotas(trial_hours=1.0))
    first = searches.create(new_search(1, hours=0.9), "", "")
    with pytest.raises(QuotaExceededError, match=r"0\.90 of its 1 trial hours"):
        searches.create(new_search(2, hours=0.2), "", "")
    now = time.time()
    with database.write() as session:
        row = session.get(SearchRow, first.search_id)
        assert row is not None
        row.state, row.start_time, row.end_time = "SUCCEEDED", now - 900, now
    searches.create(new_search(3, hours=0.7), "", "")
    with pytest.raises(QuotaExceededError):
        searches.create(new_search(4, hours=0.1), "", "")
    with database.write() as session:
        session.get_one(SearchRow, first.search_id).end_time = now - 25 * 3600
    searches.create(new_search(5, hours=0.2), "", "")


def test_bytes_are_counted_from_the_announcement_on(database: Database, tmp_path: Path) -> None:
    quotas = Quotas(stored_bytes=100)
    uploads, models = UploadStore(database, tmp_path, 1000, quotas), InputStore(database, "model", quotas)
    spec = UploadSpec("p", "model", "u1", 60, "a" * 64)
    uploads.begin(spec, 0)
    uploads.begin(spec, 0)
    with pytest.raises(QuotaExceededError, match="60 of its 100 bytes"):
        uploads.begin(UploadSpec("p", "dataset", "u2", 41, "a" * 64), 0)
    uploads.begin(UploadSpec("q", "model", "u1", 100, "a" * 64), 0)
    new = NewInput("projects/p/models/m", "p", "", "onnx", "a" * 64, 60, model_facts())
    models.add(new)
    uploads.finish(spec, new.name)
    with pytest.raises(QuotaExceededError):
        uploads.begin(UploadSpec("p", "model", "u3", 41, "a" * 64), 0)
    with pytest.raises(QuotaExceededError):
        models.add(NewInput("projects/p/models/n", "p", "", "onnx", "a" * 64, 41, model_facts()), announced=False)
    uploads.begin(UploadSpec("p", "model", "u4", 40, "a" * 64), 0)
    uploads.discard(UploadSpec("p", "model", "u4", 40, "a" * 64))
    models.delete(new.name)
    uploads.begin(UploadSpec("p", "model", "u5", 100, "a" * 64), 0)


def test_a_rate_lets_bursts_through_and_says_when_to_come_back() -> None:
    now = [0.0]
    rate = CallRate(10.0, clock=lambda: now[0])
    for _ in range(20):
        rate.take("a")
    with pytest.raises(RateLimitedError) as error:
        rate.take("a")
    rate.take("b")
    assert error.value.retry_s == pytest.approx(0.1)
    now[0] += error.value.retry_s or 0
    rate.take("a")


def test_no_rate_is_no_limit() -> None:
    rate = CallRate(0.0)
    assert all(rate.wait_s("a") == 0 for _ in range(1000))


def test_streams_are_given_back() -> None:
    streams = OpenStreams(1)
    for _ in range(3):
        with streams.held("a"), pytest.raises(RateLimitedError), streams.held("a"):
            pass
        with streams.held("b"), streams.held("a"):
            pass


def test_the_status_says_whose_share_and_when_to_retry() -> None:
    status = to_status(describe_error(RateLimitedError("token:x", "too often", 1.5)), "r")
    failure, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert any(detail.Unpack(failure) for detail in status.details)
    assert any(detail.Unpack(retry) for detail in status.details)
    assert failure.violations[0].subject == "token:x"
    assert retry.retry_delay.ToMilliseconds() == 1500


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[InProcessServer]:
    limits = {"quota_stored_bytes": 20, "quota_concurrent_searches": 1, "rate_calls_per_s": 8.0, "max_streams": 1}
    with InProcessServer(tmp_path / "data", FakeImporter(), **limits) as server:
        yield server


def test_quotas_over_the_wire(narrow: InProcessServer, tmp_path: Path) -> None:
    with narrow.client() as client:
        search = upload_inputs(client, tmp_path)
        client.create_search(search)
        with pytest.raises(RequestRefusedError) as error:
            client.create_search(search)
        assert (error.value.code, error.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
        assert "quota" in error.value.hint
        (tmp_path / "big.onnx").write_bytes(b"x" * 100)
        with pytest.raises(RequestRefusedError, match="stores 13 of its 20 bytes"):
            client.upload_model(tmp_path / "big.onnx", model_pb2.Model.ONNX)


def test_a_caller_that_is_too_quick_waits_by_itself(narrow: InProcessServer) -> None:
    with grpc.insecure_channel(narrow.address) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            [stub.ListModels(model_pb2.ListModelsRequest(parent="projects/p")) for _ in range(30)]
        refused = from_rpc_error(error.value)
        assert refused.reason == "RATE_LIMITED"
        assert refused.retry_after_s is not None
        assert refused.retry_after_s <= 0.125
    with narrow.client() as client:
        assert all(list(client.list_models()) == [] for _ in range(3))


async def test_streams_over_the_wire(narrow: InProcessServer, tmp_path: Path) -> None:
    def create() -> str:
        with narrow.client() as client:
            return client.create_search(upload_inputs(client, tmp_path)).name

    name = await asyncio.to_thread(create)
    async with grpc.aio.insecure_channel(narrow.address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        request = search_pb2.WatchSearchRequest(name=name)
        first = stub.WatchSearch(request)
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.WatchSearch(request).read()
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.GetSearch(search_pb2.GetSearchRequest(name=name))).name == name
        first.cancel()
