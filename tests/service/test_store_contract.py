"""Inputs, uploads, targets and lists keep the same contract on SQLite and on PostgreSQL."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hw_models.targets import get_target
from paretopress.client import Client
from service.errors import (
    AlreadyExistsError,
    EtagMismatchError,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    UploadConflictError,
)
from service.store.database import Database
from service.store.input_store import InputStore, NewInput
from service.store.invariants import violations
from service.store.pages import PageRequest
from service.store.search_catalogue import NewSearch, SearchCatalogue
from service.store.target_store import NewTarget, TargetStore
from service.store.upload_store import STALE_AFTER_S, UploadSpec, UploadStore
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter, FakeTools, finds_three
from tests.service.test_store import SPEC
from tests.waiting import wait_until

DATA = b"some bytes"
UPLOAD = UploadSpec("p", "model", "u1", len(DATA), hashlib.sha256(DATA).hexdigest())


def new_input(name: str = "m1", kind: str = "model") -> NewInput:
    return NewInput(f"projects/p/{kind}s/{name}", "p", "", "ONNX", "a" * 64, 10, {"parameters": 3})


def test_inputs_are_listed_newest_first_page_by_page(database: Database) -> None:
    store = InputStore(database, "model")
    for number in range(5):
        store.add(new_input(f"m{number}"))
    InputStore(database, "dataset").add(new_input("d", "dataset"))
    names, token = [], ""
    while True:
        page = store.list("p", PageRequest.parse(2, token, "models"))
        names += [item.name.rpartition("/")[2] for item in page.items]
        if not (token := page.next_page_token):
            break
    assert names == ["m4", "m3", "m2", "m1", "m0"]
    assert store.get("projects/p/models/m1").facts == {"parameters": 3}


@pytest.mark.parametrize("after", [1 << 70, "text", [1]], ids=["huge", "text", "list"])
def test_a_forged_page_token_is_the_callers_fault(database: Database, after: object) -> None:
    import base64
    import json

    scope = hashlib.sha256(b"models").hexdigest()[:12]
    token = base64.urlsafe_b64encode(json.dumps([scope, after]).encode()).decode()
    with pytest.raises(InvalidRequestError, match="page_token"):
        InputStore(database, "model").list("p", PageRequest.parse(2, token, "models"))


def test_a_name_is_taken_once_and_an_answer_is_remembered(database: Database) -> None:
    store = InputStore(database, "model")
    made = store.add(new_input(), "r1", "f" * 64)
    assert store.add(replace(new_input(), name="projects/p/models/other"), "r1", "f" * 64) == made
    with pytest.raises(AlreadyExistsError, match="exists"):
        store.add(new_input())
    assert store.recall("p", "r1", "f" * 64) == made
    with pytest.raises(EtagMismatchError):
        store.delete(made.name, "another")
    store.delete(made.name, made.etag)
    with pytest.raises(NotFoundError):
        store.delete(made.name)


def test_an_input_of_a_search_that_has_not_ended_stays(database: Database) -> None:
    models, datasets = InputStore(database, "model"), InputStore(database, "dataset")
    model, dataset = models.add(new_input()).name, datasets.add(new_input("d1", "dataset")).name
    searches = SearchCatalogue(database)
    search = searches.create(NewSearch("projects/p/searches/s", "p", "", model, dataset, SPEC, 60.0), "", "")
    for delete in (lambda: models.delete(model), lambda: datasets.delete(dataset)):
        with pytest.raises(PreconditionError, match=r"is used by projects/p/searches/s; cancel it first"):
            delete()
    searches.cancel(search.name)
    models.delete(model)
    datasets.delete(dataset)


def test_targets_keep_their_contract(database: Database) -> None:
    store = TargetStore(database)
    new = NewTarget("projects/p/targets/mine", "p", replace(get_target("cpu-ort-1t"), name="mine"))
    made = store.add(new, "r", "f" * 64)
    assert store.list("p") == (made,)
    with pytest.raises(AlreadyExistsError):
        store.add(new)
    store.delete(made.name, made.etag)
    assert store.list("p") == ()


def test_an_upload_goes_on_where_it_broke_off(database: Database, tmp_path: Path) -> None:
    store = UploadStore(database, tmp_path / "uploads", 1000)
    assert store.begin(UPLOAD, 0).committed_size_bytes == 0
    with store.writing(UPLOAD) as path:
        path.write_bytes(DATA[:4])
        with pytest.raises(UploadConflictError), store.writing(UPLOAD):
            pass
    assert store.begin(UPLOAD, 4).committed_size_bytes == 4
    with pytest.raises(UploadConflictError, match="another file"):
        store.begin(replace(UPLOAD, size_bytes=11), 0)
    with store.writing(UPLOAD) as path:
        path.write_bytes(DATA)
        store.verify(UPLOAD, path, hashlib.sha256(path.read_bytes()).hexdigest())
    store.finish(UPLOAD, "projects/p/models/m1")
    assert store.progress("p", "model", "u1").resource == "projects/p/models/m1"
    assert not store.path("p", "model", "u1").exists()
    assert wait_until(lambda: not list((tmp_path / "uploads").iterdir()))  # dropped behind the caller's back


def test_threads_may_announce_the_same_upload_at_once(database: Database, tmp_path: Path) -> None:
    store = UploadStore(database, tmp_path / "uploads", 1000)
    sizes: list[int] = []
    threads = [threading.Thread(target=lambda: sizes.append(store.begin(UPLOAD, 0).size_bytes)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [len(DATA)] * 10


def test_what_nobody_goes_on_uploading_is_dropped_with_its_file(database: Database, tmp_path: Path) -> None:
    store, now = UploadStore(database, tmp_path / "uploads", 1000), time.time()
    store.begin(UPLOAD, 0)
    store.path("p", "model", "u1").write_bytes(b"half")
    for name in ("orphan", "young"):
        (tmp_path / "uploads" / name).write_bytes(b"of another server")
    os.utime(tmp_path / "uploads" / "orphan", (0, 0))
    (tmp_path / "uploads" / "ab.cd.removed").write_bytes(b"a server ended before it came to it")
    assert store.remove_stale(now) == 0
    assert {path.name for path in (tmp_path / "uploads").iterdir()} == {store.path("p", "model", "u1").name, "young"}
    assert store.stale_count(now + STALE_AFTER_S + 1) == 1
    assert store.remove_stale(now + STALE_AFTER_S + 1) == 1
    assert not store.path("p", "model", "u1").exists()
    with pytest.raises(NotFoundError):
        store.progress("p", "model", "u1")


def test_a_file_that_is_long_under_way_keeps_its_bytes(database: Database, tmp_path: Path) -> None:
    store = UploadStore(database, tmp_path / "uploads", 1000)
    store.begin(UPLOAD, 0)
    path = store.path("p", "model", "u1")
    path.write_bytes(b"half")
    os.utime(path, (0, 0))
    store.remove_stale()
    assert path.read_bytes() == b"half"


def test_a_whole_conversation_runs_on_postgresql(postgresql_database_url: str, tmp_path: Path) -> None:
    options = {"database_url": postgresql_database_url}
    with InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(finds_three), **options) as server, server.client() as client:
        request = upload_inputs(client, tmp_path)
        first = client.create_search(request, request_id="once")
        assert client.create_search(request, request_id="once").name == first.name
        sequences = [event.sequence for event in client.watch(first.name)]
        assert sequences == list(range(1, len(sequences) + 1))
        assert client.get_search(first.name).best.endswith("c0002")
        assert len(list(client.list_candidates(first.name))) == 4
        _delete_everything(client, first.name, request.model, request.dataset)
    database = Database(postgresql_database_url)
    with database.read() as session:
        assert violations(session) == []
    database.close()


def _delete_everything(client: Client, search: str, model: str, dataset: str) -> None:
    client.delete_search(search)
    client.delete_model(model)
    client.delete_dataset(dataset)
    assert list(client.list_searches()) == []
