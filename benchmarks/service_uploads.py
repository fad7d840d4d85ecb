"""Uploading 1 GiB: what it takes of the server's memory, how fast it is beside a bare gRPC stream, and whether a cut is healed.

``python -m benchmarks.service_uploads`` prints one row. The server is a process of its own with an importer that only looks at the
size: receiving is measured, not opening. The bare server, a process as well, throws the same messages away. How fast one thread
alone makes the sha256 of as much is told beside: no server that checks it can be faster, and it depends on the processor (fourfold
slower without the SHA extensions).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc import aio

from benchmarks.harness import ROOT, Row
from benchmarks.process_figures import rss_mib
from paretopress.transfer import CHUNK_BYTES
from paretopress.v1 import model_pb2, model_pb2_grpc, upload_pb2
from service.server import start
from service.settings import Settings

SIZE_BYTES = 1 << 30
ROUNDS = 8
_ACK = b"done"


def measure(size_bytes: int = SIZE_BYTES, rounds: int = ROUNDS, seed: int = 0) -> Row:
    """Interleaved rounds of both, medians; then one upload that is cut off at a random byte and resumed."""
    generator, numbers = random.Random(seed), np.random.default_rng(seed)
    with (
        tempfile.TemporaryDirectory(prefix="uploads-") as name,
        _process("serve", name) as (server, address),
        _process("bare", "") as (_, bare),
    ):
        with grpc.insecure_channel(address) as channel, grpc.insecure_channel(bare) as bare_channel:
            stub = model_pb2_grpc.ModelServiceStub(channel)
            discard: Any = _bare_method(bare_channel)
            data = [numbers.bytes(size_bytes // rounds) for _ in range(rounds)]  # never the same file twice: it would be known
            begin_mib, watcher = rss_mib(server.pid), _Peak(server.pid)
            with watcher:
                times = [_round(stub, discard, file, Path(name)) for file in _files(data)]
            cut = _cut_and_resume(stub, _File(data, "cut"), generator)
        ours, plain, hashing = (statistics.median(column) for column in zip(*times, strict=True))
        return {
            "size_bytes": size_bytes,
            "chunk_bytes": CHUNK_BYTES,
            "rounds": rounds,
            "cpus": os.cpu_count(),
            "upload_s": round(ours, 2),
            "bare_s": round(plain, 2),
            "sha256_alone_s": round(hashing, 2),
            "ratio_sha256_alone_allows": round(min(1.0, plain / hashing), 3),
            "throughput_ratio": round(plain / ours, 3),
            "upload_mb_per_s": round(size_bytes / ours / 1e6, 1),
            "rss_growth_mib": round(watcher.peak_mib - begin_mib, 1),
            **cut,
        }


def _round(stub: model_pb2_grpc.ModelServiceStub, discard: Any, file: _File, folder: Path) -> tuple[float, float, float]:
    """Seconds of an upload, a bare stream, and the digest alone; the server drops its file in between, beside nothing."""
    ours = _timed(partial(_upload, stub, file))
    while any((folder / "uploads").iterdir()):
        time.sleep(0.05)
    return ours, _timed(partial(_discard, discard, file)), file.sha256_s


def _bare_method(channel: Any) -> Any:
    return channel.stream_unary("/bare/Discard", request_serializer=model_pb2.UploadModelRequest.SerializeToString)


def _discard(method: Any, file: _File) -> None:
    method(_messages(file, 0))


class _File:
    """Bytes of parts in some order, as a file to be sent; making one takes its digest, in ``sha256_s`` seconds."""

    def __init__(self, parts: list[bytes], upload_id: str) -> None:
        self.parts = parts
        self.upload_id = upload_id
        self.size_bytes = sum(map(len, parts))
        digest, begin = hashlib.sha256(), time.monotonic()
        for part in parts:
            digest.update(part)
        self.sha256, self.sha256_s = digest.hexdigest(), time.monotonic() - begin


def _files(parts: list[bytes]) -> Iterator[_File]:
    """Each is made, and its digest timed, when its round begins."""
    for i in range(1, len(parts)):
        yield _File(parts[i:] + parts[:i], f"round-{i}")
    yield _File(parts[::-1], "round-0")


def _messages(file: _File, offset: int, end: int | None = None) -> Iterator[model_pb2.UploadModelRequest]:
    header = upload_pb2.UploadHeader(upload_id=file.upload_id, size_bytes=file.size_bytes, sha256=file.sha256, offset=offset)
    model = model_pb2.Model(format=model_pb2.Model.ONNX)
    metadata = model_pb2.UploadModelMetadata(parent="projects/default", model=model, upload=header)
    yield model_pb2.UploadModelRequest(metadata=metadata)
    begin = 0
    for part in file.parts:
        stop = min(len(part), (end or file.size_bytes) - begin)
        for place in range(max(0, offset - begin), stop, CHUNK_BYTES):
            yield model_pb2.UploadModelRequest(chunk=part[place : min(place + CHUNK_BYTES, stop)])
        begin += len(part)


def _upload(stub: model_pb2_grpc.ModelServiceStub, file: _File) -> None:
    model = stub.UploadModel(_messages(file, 0))
    if (model.sha256, model.size_bytes) != (file.sha256, file.size_bytes):
        raise RuntimeError(f"{model.name} is not what was sent")


def _timed(action: Callable[[], object]) -> float:
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def _cut_and_resume(stub: model_pb2_grpc.ModelServiceStub, file: _File, generator: random.Random) -> Row:
    """End the stream at a random byte without a word, ask how much has arrived, send the rest."""
    at = generator.randrange(1, file.size_bytes)
    sent = threading.Event()

    def cut() -> Iterator[model_pb2.UploadModelRequest]:
        yield from _messages(file, 0, at)
        sent.set()
        threading.Event().wait(60)  # the call is cancelled meanwhile

    call: Any = stub.UploadModel.future(cut())
    sent.wait(120)
    call.cancel()
    offset = _committed(stub, file.upload_id)
    model = stub.UploadModel(_messages(file, offset))
    return {"cut_at": at, "resumed_at": offset, "digest_right": model.sha256 == file.sha256}


def _committed(stub: model_pb2_grpc.ModelServiceStub, upload_id: str) -> int:
    """Once the server has noticed the cut, and written what had arrived, the size stands still."""
    query, last = upload_pb2.QueryUploadRequest(parent="projects/default", upload_id=upload_id), -1
    while True:
        committed = stub.QueryModelUpload(query).committed_size_bytes
        if committed == last:
            return int(committed)
        last = committed
        time.sleep(1.0)


class _Peak:
    """The most resident memory of a process while the block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak_mib = 0.0

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak_mib = max(self.peak_mib, rss_mib(self._pid))


class _SizeImporter:
    """Opens nothing."""

    def model(self, path: Path, request: Any) -> Mapping[str, Any]:
        """Facts of nothing in particular."""
        shape = {"input_shape": [1, 28, 28], "outputs": 10, "is_classifier": True, "parameters": 1, "macs": 1}
        digests = {"canonical_sha256": "a" * 64, "onnx_sha256": "b" * 64, "graph_sha256": "c" * 64}
        rest = {"architecture": "", "onnx_size_bytes": path.stat().st_size, "size_is_free": True, "size_note": "", "erased": []}
        return {**shape, **digests, **rest}

    def dataset(self, path: Path, request: Any) -> Mapping[str, Any]:
        """Not asked here."""
        raise NotImplementedError


async def _serve(folder: str) -> None:
    running = await start(Settings(data_dir=Path(folder), port=0, embedded_worker=False), _SizeImporter())
    print(running.address, flush=True)
    await running.wait()


async def _serve_bare() -> None:
    async def discard(requests: Any, context: Any) -> bytes:
        async for _ in requests:
            pass
        return _ACK

    decode = model_pb2.UploadModelRequest.FromString
    handler = grpc.stream_unary_rpc_method_handler(discard, request_deserializer=decode)
    server = aio.server(options=[("grpc.max_receive_message_length", 8 << 20)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", {"Discard": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


@contextlib.contextmanager
def _process(role: str, folder: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "benchmarks.service_uploads", role, folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(_serve(sys.argv[2]))
    elif sys.argv[1:2] == ["bare"]:
        asyncio.run(_serve_bare())
    else:
        print(json.dumps(measure(int(sys.argv[1]) if sys.argv[1:] else SIZE_BYTES), indent=1))
