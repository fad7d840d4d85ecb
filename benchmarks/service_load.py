"""A thousand watchers and two hundred calls a second on one server: how fast it answers, whether an event is lost, what it holds.

``python -m benchmarks.service_load 60`` prints one row. Four processes: the server, one that appends events through the store, one
that watches, one that calls. Streams must give every event once and in order; a call's time counts from when it was due.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc import aio

from benchmarks.harness import ROOT, Row
from benchmarks.process_figures import cpu_s, rss_mib
from paretopress.v1 import search_pb2, search_pb2_grpc
from search.protocols import Event
from search.spec import Budget, SearchSpec
from service.store.database import Database
from service.store.events import append_events
from service.store.schema import SearchRow
from service.store.search_catalogue import NewSearch, SearchCatalogue

STREAMS, SEARCHES, CALLS_PER_S, EVENTS_PER_S = 1000, 10, 200, 1.0
WARM_UP_S = 60.0
_CHANNELS = 8
_SETTLE_S = 5.0
_SPEC = SearchSpec("a" * 64, "b" * 64, "cpu-ort-1t", Budget(latency_ms=1.0, max_accuracy_drop_points=1.0))


def measure(
    seconds: float, streams: int = STREAMS, searches: int = SEARCHES, calls_per_s: int = CALLS_PER_S, database_url: str = ""
) -> Row:
    """Put the load on a fresh server for ``seconds``; memory counts from the end of the first minute (or tenth, if shorter)."""
    with tempfile.TemporaryDirectory(prefix="load-") as name, contextlib.ExitStack() as stack:
        url = database_url or f"sqlite:///{Path(name) / 'paretopress.db'}"
        ids = _seed(url, searches)
        server, address = stack.enter_context(_server(Path(name), url))
        load = {"address": address, "seconds": seconds, "searches": searches, "url": url, "ids": ids}
        watching = stack.enter_context(_child("watch", {**load, "streams": streams}))
        assert watching.stdout is not None
        watching.stdout.readline()  # all streams are open
        calling = stack.enter_context(_child("call", {**load, "calls_per_s": calls_per_s}))
        writing = stack.enter_context(_child("write", load))
        memory = _Memory(server.pid)
        processes = {"server": server, "watchers": watching, "callers": calling, "writer": writing}
        begin, cpu_begin = time.monotonic(), {kind: cpu_s(process.pid) for kind, process in processes.items()}
        while time.monotonic() < begin + seconds:
            memory.sample(time.monotonic() - begin)
            time.sleep(min(1.0, seconds / 20))
        shares = {kind: (cpu_s(process.pid) - cpu_begin[kind]) / seconds for kind, process in processes.items()}
        called, watched, written = _answer(calling), _answer(watching), _answer(writing)
        return {
            "seconds": seconds,
            "streams": streams,
            "searches": searches,
            "database": url.partition(":")[0],
            "cpus": os.cpu_count(),
            **called,
            **_judged(watched, written),
            **memory.figures(min(WARM_UP_S, seconds / 10)),
            "cpu_shares": {kind: round(share, 3) for kind, share in shares.items()},
        }


def _judged(watched: Row, written: Row) -> Row:
    expected = written["last_sequence"]
    received = watched["received"]
    lost = sum(expected[number % len(expected)] - count for number, count in enumerate(received))
    return {
        "events_appended": sum(expected),
        "events_delivered": sum(received),
        "events_lost": lost,
        "events_out_of_order": watched["out_of_order"],
        "streams_broken": watched["broken"],
        "delivery_ms_p50": watched["delivery_ms_p50"],
        "delivery_ms_p99": watched["delivery_ms_p99"],
    }


class _Memory:
    """Resident size of a process over time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._samples: list[tuple[float, float]] = []

    def sample(self, at_s: float) -> None:
        """Look once."""
        self._samples.append((at_s, rss_mib(self._pid)))

    def figures(self, warm_up_s: float) -> Row:
        """Begin, end and most, and the slope of a straight line, after the warm-up."""
        kept = [sample for sample in self._samples if sample[0] >= warm_up_s]
        at, sizes = np.array(kept).T
        slope = np.polyfit(at, sizes, 1)[0] * 60
        return {
            "rss_mib_begin": round(float(sizes[0]), 1),
            "rss_mib_end": round(float(sizes[-1]), 1),
            "rss_mib_max": round(float(sizes.max()), 1),
            "rss_mib_per_minute": round(float(slope), 3),
        }


def _seed(url: str, searches: int) -> list[int]:
    database = Database(url)
    database.migrate()
    catalogue = SearchCatalogue(database)
    ids = []
    for number in range(searches):
        new = NewSearch(_name(number), "default", "", "projects/default/models/m", "projects/default/datasets/d", _SPEC, 60.0)
        ids.append(catalogue.create(new, "", "").search_id)
        with database.write() as session:
            row = session.get_one(SearchRow, ids[-1])
            row.state, row.lease_owner, row.lease_expires = "RUNNING", "load", time.time() + 86_400
    database.close()
    return ids


def _name(number: int) -> str:
    return f"projects/default/searches/s{number}"


def write(load: dict[str, Any]) -> Row:
    """Append an event a second to each search, spread over the second; then end the searches."""
    database, seconds, ids = Database(load["url"]), load["seconds"], load["ids"]
    begin, last = time.monotonic(), [1] * len(ids)
    for number in range(int(seconds * EVENTS_PER_S)):
        for index, search_id in enumerate(ids):
            _sleep_until(begin + (number + index / len(ids)) / EVENTS_PER_S)
            words = f"c{number:04d} rung 1: accuracy 0.9312 (drop +0.41 points), 1.234 ms predicted"
            payload = {"candidate": f"c{number:04d}", "rung": 1, "promoted": True, "sent": time.time()}
            with database.write() as session:
                append_events(session, search_id, [Event("candidate", words, payload)])
    for index, search_id in enumerate(ids):
        with database.write() as session:
            row = session.get_one(SearchRow, search_id)
            row.state, row.end_time = "SUCCEEDED", time.time()
            append_events(session, search_id, [Event("state", "found", {"state": "SUCCEEDED"})])
            last[index] = row.last_sequence
    return {"last_sequence": last}


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


async def watch(load: dict[str, Any]) -> Row:
    """Open the streams, say so, follow them to the end."""
    streams, searches = load["streams"], load["searches"]
    stubs = [search_pb2_grpc.SearchServiceStub(channel) for channel in _channels(load["address"])]
    received, out_of_order, broken, delays = [0] * streams, 0, 0, []
    open_streams = asyncio.Semaphore(0)

    async def follow(number: int) -> None:
        nonlocal out_of_order, broken
        request = search_pb2.WatchSearchRequest(name=_name(number % searches))
        try:
            async for event in stubs[number % len(stubs)].WatchSearch(request):
                if event.sequence == 1:
                    open_streams.release()
                out_of_order += event.sequence != received[number] + 1
                received[number] += 1
                if "sent" in event.payload.fields and number < searches * 10:
                    delays.append(time.time() - event.payload.fields["sent"].number_value)
        except grpc.RpcError:
            broken += 1

    tasks = [asyncio.create_task(follow(number)) for number in range(streams)]
    for _ in range(streams):
        await open_streams.acquire()
    print("open", flush=True)
    async with asyncio.timeout(load["seconds"] + 60):
        await asyncio.gather(*tasks)
    p50, p99 = np.percentile(1e3 * np.array(delays or [np.nan]), [50, 99])
    percentiles = {"delivery_ms_p50": round(float(p50), 1), "delivery_ms_p99": round(float(p99), 1)}
    return {"received": received, "out_of_order": out_of_order, "broken": broken, **percentiles}


async def call(load: dict[str, Any]) -> Row:
    """GetSearch and ListSearches in turn, at fixed moments whether or not earlier calls were answered."""
    channels = _channels(load["address"])
    stubs = [search_pb2_grpc.SearchServiceStub(channel) for channel in channels]
    times_ms: list[float] = []
    failed = 0

    async def one(number: int, due: float) -> None:
        nonlocal failed
        stub = stubs[number % len(stubs)]
        try:
            if number % 4:
                await stub.GetSearch(search_pb2.GetSearchRequest(name=_name(number % load["searches"])))
            else:
                await stub.ListSearches(search_pb2.ListSearchesRequest(parent="projects/default", page_size=10))
        except grpc.RpcError:
            failed += 1
        times_ms.append(1e3 * (time.monotonic() - due))

    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    interval_s, begin = 1 / load["calls_per_s"], time.monotonic() + 0.2
    tasks: set[asyncio.Task[None]] = set()
    for number in range(int(load["seconds"] * load["calls_per_s"])):
        due = begin + number * interval_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(one(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    p50, p99, most = np.percentile(times_ms, [50, 99, 100])
    return {
        "calls": len(times_ms),
        "calls_failed": failed,
        "call_ms_p50": round(float(p50), 2),
        "call_ms_p99": round(float(p99), 2),
        "call_ms_max": round(float(most), 1),
    }


def _channels(address: str) -> list[aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return [aio.insecure_channel(address, options=options) for _ in range(_CHANNELS)]


@contextlib.contextmanager
def _server(folder: Path, url: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    own = {"DATA_DIR": str(folder), "DATABASE_URL": url, "PORT": "0", "EMBEDDED_WORKER": "false", "LOG_LEVEL": "WARNING"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **{f"PARETOPRESS_{name}": value for name, value in own.items()}}
    with (folder / "server.log").open("w") as log, _popen(["-m", "service.server"], environment, log) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if " listens on " not in line:
            raise RuntimeError(f"the server did not start: {(folder / 'server.log').read_text()[-2000:]}")
        time.sleep(_SETTLE_S)  # the sandbox's fork server loads torch beside
        yield process, line.split(" listens on ")[1].split(";")[0]


@contextlib.contextmanager
def _child(role: str, load: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with _popen(["-m", "benchmarks.service_load", role, json.dumps(load)], environment, None) as process:
        yield process


@contextlib.contextmanager
def _popen(arguments: Sequence[str], environment: dict[str, str], log: Any) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()


def _answer(process: subprocess.Popen[str]) -> Row:
    assert process.stdout is not None
    answer: Row = json.loads(process.stdout.readline() or "{}")
    if process.wait(90) != 0:
        raise RuntimeError("a part of the load failed; its message stands above")
    return answer


def _main(arguments: Sequence[str]) -> None:
    roles = {"watch": lambda load: asyncio.run(watch(load)), "call": lambda load: asyncio.run(call(load)), "write": write}
    if arguments[0] in roles:
        gc.freeze()  # a pause of the caller is no latency of the server
        print(json.dumps(roles[arguments[0]](json.loads(arguments[1]))), flush=True)
        return
    print(json.dumps(measure(float(arguments[0])), indent=1))


if __name__ == "__main__":
    _main(sys.argv[1:])
