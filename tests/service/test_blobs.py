from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from moto.server import ThreadedMotoServer

from search.protocols import BlobStore
from service.errors import StoreUnavailableError, StoreUrlError
from service.settings import Settings
from service.store import blob_cache
from service.store.blob_cache import BlobCache
from service.store.blob_filesystem import BlobFilesystem
from service.store.blobs import FsspecBlobStore, blob_store
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter, FakeTools, finds_three

MIB = 1 << 20
MakeStore = Callable[[Path], FsspecBlobStore]
PUT_100_MIB = """
import resource, sys
from pathlib import Path
from service.store.blobs import FsspecBlobStore
blobs = FsspecBlobStore(sys.argv[1])
blobs.put_bytes(b"whatever the client library loads is loaded now")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(blobs.put_file(Path(sys.argv[2])), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_url(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket, reached as users do: by the usual variables."""
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": s3_endpoint}
    for name, value in {**keys, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    bucket = "b" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/blobs"


class RenamingFileSystem(DirFileSystem):  # type: ignore[misc]
    """A remote file system that is no object store: what is half written can be seen."""

    protocol = "renaming"


@pytest.fixture(params=["local", "memory", "s3", "renaming"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecBlobStore:
    kind = request.param
    if kind == "local":
        return FsspecBlobStore(str(tmp_path / "blobs"))
    if kind == "s3":
        return FsspecBlobStore(request.getfixturevalue("s3_url"), tmp_path / "cache")
    if kind == "memory":
        return FsspecBlobStore(f"memory://{tmp_path.name}", tmp_path / "cache")
    (tmp_path / "remote").mkdir()
    made = FsspecBlobStore("renaming://", tmp_path / "cache")
    remote = RenamingFileSystem(str(tmp_path / "remote"), fsspec.filesystem("file"))
    made.__dict__["filesystem"] = BlobFilesystem(remote, "/blobs")
    return made


def test_every_store_keeps_the_contract(blobs: FsspecBlobStore, tmp_path: Path) -> None:
    store: BlobStore = blobs
    digest = store.put_bytes(b"data")
    assert store.put_bytes(b"data") == digest == hashlib.sha256(b"data").hexdigest()
    (tmp_path / "file").write_bytes(b"more data")
    other = store.put_file(tmp_path / "file")
    assert store.put_file(tmp_path / "file") == other
    assert store.get_bytes(digest) == b"data"
    assert store.local_path(other).read_bytes() == b"more data"
    assert store.local_path(other) == store.local_path(other)
    assert store.exists(digest)
    found = {blob.digest: blob for blob in blobs.iterate()}
    assert set(found) == {digest, other}
    assert found[other].size_bytes == 9
    assert abs(found[other].modified - time.time()) < 60


def test_what_is_not_there_is_a_key_error(blobs: FsspecBlobStore) -> None:
    missing = "0" * 64
    assert not blobs.exists(missing)
    assert not blobs.delete(missing)
    for name in (missing, "../../etc/passwd", "A" * 64):
        for read in (blobs.get_bytes, blobs.local_path):
            with pytest.raises(KeyError):
                read(name)
    assert list(blobs.iterate()) == []


def test_a_deleted_blob_is_gone_and_can_come_back(blobs: FsspecBlobStore) -> None:
    digest = blobs.put_bytes(b"data")
    assert not blobs.delete(digest, older_than=time.time() - 3600)
    assert blobs.exists(digest)
    assert blobs.delete(digest, older_than=time.time() + 3600)
    assert not blobs.exists(digest)
    assert blobs.put_bytes(b"data") == digest
    assert blobs.get_bytes(digest) == b"data"


def test_a_probe_leaves_nothing_behind(blobs: FsspecBlobStore) -> None:
    blobs.probe()
    filesystem, root = blobs.filesystem.files, blobs.filesystem.root
    assert [path for path in filesystem.find(root) if "probe" in path] == []


def test_a_store_travels_to_another_process_whole(tmp_path: Path) -> None:
    blobs = FsspecBlobStore(str(tmp_path / "blobs"), tmp_path / "cache", 5)
    digest = blobs.put_bytes(b"data")
    copy = pickle.loads(pickle.dumps(blobs))
    assert copy.get_bytes(digest) == b"data"
    assert (copy.url, copy.cache_dir, copy.cache_bytes) == (blobs.url, blobs.cache_dir, 5)


def test_a_blob_that_breaks_off_never_appears(blobs: FsspecBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem, root = blobs.filesystem.files, blobs.filesystem.root
    (tmp_path / "file").write_bytes(b"half of it")

    def breaks(source: str, place: str, **_: Any) -> None:
        if "." in place.rpartition("/")[2]:
            filesystem.pipe_file(place, b"half")
        raise OSError("no space left")

    monkeypatch.setattr(filesystem, "put_file", breaks)
    with pytest.raises(StoreUnavailableError):
        blobs.put_file(tmp_path / "file")
    assert list(blobs.iterate()) == []
    assert filesystem.find(root) == []


def test_a_large_file_goes_to_s3_in_parts(s3_url: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for number in range(100):
            block = hashlib.sha256(str(number).encode()).digest() * (MIB // 32)
            digest.update(block)
            file.write(block)
    command = [sys.executable, "-c", PUT_100_MIB, s3_url, str(path)]
    stored, grown_kib = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout.split()
    assert stored == digest.hexdigest()
    assert int(grown_kib) < 60 * 1024
    copy = FsspecBlobStore(s3_url, tmp_path / "cache").local_path(stored)
    assert copy.stat().st_size == 100 * MIB


@pytest.mark.parametrize("url", ["s3://bucket/blobs", "/proc/nowhere"], ids=["s3", "local"])
def test_a_store_that_is_away_says_so(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    blobs = FsspecBlobStore(url, tmp_path)
    with pytest.raises(StoreUnavailableError):
        blobs.probe(timeout_s=0.5)
    if url.startswith("/"):
        with pytest.raises(StoreUnavailableError, match="try again"):
            blobs.put_bytes(b"data")


def test_a_url_that_cannot_be_opened_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StoreUrlError, match="PARETOPRESS_BLOB_URL cannot be used: Protocol not known: nowhere"):
        blob_store(Settings(data_dir=tmp_path, blob_url="nowhere://bucket"))


def test_a_server_keeps_its_files_in_s3(s3_url: str, tmp_path: Path) -> None:
    running = InProcessServer(tmp_path / "data", FakeImporter(), FakeTools(finds_three), blob_url=s3_url)
    with running as server, server.client() as client:
        made = client.create_search(upload_inputs(client, tmp_path))
        best = client.wait(made.name).best
        assert client.download_artifact(best, "model.onnx", tmp_path / "best.onnx").read_bytes() == b"onnx" * 1000
    assert fsspec.filesystem("s3").find(s3_url) != []
    assert not (tmp_path / "data" / "blobs").exists()


def test_putting_again_makes_a_blob_young(tmp_path: Path) -> None:
    blobs = FsspecBlobStore(str(tmp_path / "blobs"))
    digest = blobs.put_bytes(b"data")
    os.utime(blobs.local_path(digest), (0, 0))
    assert next(iter(blobs.iterate())).modified == 0
    blobs.put_bytes(b"data")
    assert not blobs.delete(digest, older_than=time.time() - 60)


def test_a_blob_that_is_put_while_it_is_being_deleted_is_there_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the collection's look at its age and its end, somebody is told that the blob is stored already."""
    blobs = FsspecBlobStore(str(tmp_path / "blobs"))
    digest = blobs.put_bytes(b"data")
    os.utime(blobs.local_path(digest), (0, 0))
    filesystem = blobs.filesystem.files
    look = filesystem.info
    writer = threading.Thread(target=blobs.put_bytes, args=(b"data",))

    def look_slowly(place: str) -> Any:
        facts = look(place)
        writer.start()
        writer.join(0.3)
        return facts

    with monkeypatch.context() as patched:
        patched.setattr(filesystem, "info", look_slowly)
        blobs.delete(digest, older_than=time.time() - 60)
    writer.join()
    assert blobs.exists(digest)


def test_leftovers_of_killed_processes_are_removed_when_old(tmp_path: Path) -> None:
    blobs = FsspecBlobStore(str(tmp_path / "blobs"))
    digest = blobs.put_bytes(b"data")
    leftover = blobs.local_path(digest).with_name(f"{digest}.abcd.tmp")
    leftover.write_bytes(b"da")
    assert [blob.digest for blob in blobs.iterate()] == [digest]
    assert blobs.remove_leftovers(time.time() - 60) == 0
    assert blobs.remove_leftovers(time.time() + 60) == 1
    assert blobs.get_bytes(digest) == b"data"


def fetch(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_damaged_download_is_fetched_again_and_then_refused(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 100)
    answers = [b"damaged", b"data"]
    assert cache.path(digest_of(b"data"), lambda path: path.write_bytes(answers.pop(0))).read_bytes() == b"data"
    with pytest.raises(OSError, match="damaged"):
        cache.path(digest_of(b"other"), fetch(b"not it"))
    assert [path.name for path in tmp_path.iterdir()] == [digest_of(b"data")]


def test_the_cache_drops_the_longest_unused_and_keeps_what_is_in_use(tmp_path: Path) -> None:
    cache, long_ago = BlobCache(tmp_path, 100), time.time() - blob_cache.IN_USE_S - 100
    for number in range(5):
        path = cache.path(digest_of(bytes([number]) * 40), fetch(bytes([number]) * 40))
        os.utime(path, (long_ago + number, long_ago + number) if number != 1 else None)
    cache.shrink()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {digest_of(bytes([number]) * 40) for number in (1, 4)}
    for number in (6, 7, 8):
        cache.path(digest_of(bytes([number]) * 40), fetch(bytes([number]) * 40))
    assert {digest_of(bytes([number]) * 40) for number in (1, 6, 7, 8)} == {path.name for path in tmp_path.iterdir()}
