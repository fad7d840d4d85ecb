"""The wall time of whole searches against what was asked for, and how long a running search says nothing new.

Searches of ResNet-20 on Fashion-MNIST that would take far longer than they may: one is killed and resumed, one is extended. They
run on a machine as it is, busy or not: a wall time is promised on any.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.harness import Check, Results, Row
from benchmarks.promises_server import PromisesServer, fresh_server, upload_resnet
from paretopress.client import Client
from paretopress.errors import ClientError
from paretopress.v1 import search_pb2

NAME = "promises_wall"
WALLS_S = (60, 60, 90, 90, 120, 180, 300, 600)
KILLED_S, EXTENDED_S = 120, 90
_TRIALS, _MORE_TRIALS = 60, 30


@dataclass
class _Silence:
    """The longest time between two words of a running search about what it is at, asked for four times a second."""

    longest_s: float = 0.0
    words: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def listened_to(self, client: Client, name: str) -> Iterator[None]:
        """Ask as long as the block lasts."""
        thread = threading.Thread(target=self._listen, args=(client, name), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _listen(self, client: Client, name: str) -> None:
        last, heard_at = b"", 0.0
        while not self._over.wait(0.25):
            try:
                search = client.get_search(name)
            except ClientError:
                continue
            now = time.monotonic()
            if search.state != search_pb2.Search.RUNNING or not search.HasField("progress"):
                heard_at = 0.0
                continue
            said = search.progress.SerializeToString(deterministic=True)
            if heard_at:
                self.longest_s = max(self.longest_s, now - heard_at)
            if said != last:
                last, heard_at, self.words = said, now, self.words + 1


def run(results: Results) -> None:
    """The searches that have no row yet, on one server."""
    with fresh_server(NAME) as server:
        inputs = upload_resnet(server)
        for number, wall_s in enumerate(WALLS_S):
            results.cell(f"{wall_s} s, {number}", lambda wall_s=wall_s: _searched(server, inputs, wall_s))  # type: ignore[misc]
        results.cell(f"{KILLED_S} s, killed", lambda: _killed(server, inputs))
        results.cell(f"{EXTENDED_S} s, extended", lambda: _extended(server, inputs))


def _created(client: Client, inputs: search_pb2.Search, wall_s: int) -> str:
    request = search_pb2.Search()
    request.CopyFrom(inputs)
    request.effort.max_trials, request.effort.max_epochs = _TRIALS, 3.0
    request.effort.max_wall_time.FromSeconds(wall_s)
    return client.create_search(request).name


def _searched(server: PromisesServer, inputs: search_pb2.Search, wall_s: int) -> Row:
    with Client(server.address) as client:
        name, silence = _created(client, inputs, wall_s), _Silence()
        with silence.listened_to(client, name):
            ended = client.wait(name)
        return _row(ended, wall_s, ended.end_time.ToNanoseconds() / 1e9 - ended.start_time.ToNanoseconds() / 1e9, silence)


def _killed(server: PromisesServer, inputs: search_pb2.Search) -> Row:
    """Server and worker are killed once two candidates are there. The time that nobody worked does not count."""
    with Client(server.address) as client:
        name = _created(client, inputs, KILLED_S)
        began = _running_since(client, name)
        while client.get_search(name).candidate_count < 2:
            time.sleep(0.2)
    server.end(signal.SIGKILL)
    worked_s = time.time() - began
    server.start()
    silence = _Silence()
    with Client(server.address) as client:
        resumed_at = _resumed_at(client, name)
        with silence.listened_to(client, name):
            ended = client.wait(name)
    took_s = worked_s + ended.end_time.ToNanoseconds() / 1e9 - resumed_at
    return {**_row(ended, KILLED_S, took_s, silence), "worked_before_s": worked_s}


def _running_since(client: Client, name: str) -> float:
    while True:
        search = client.get_search(name)
        if search.HasField("start_time"):
            return search.start_time.ToNanoseconds() / 1e9
        time.sleep(0.1)


def _resumed_at(client: Client, name: str) -> float:
    for event in client.watch(name):
        if event.message == "resumed by a worker":
            return event.time.ToNanoseconds() / 1e9
    raise RuntimeError("the search was not resumed")


def _extended(server: PromisesServer, inputs: search_pb2.Search) -> Row:
    """The first time again, for more trials: both lives together have both times."""
    with Client(server.address) as client:
        name, silence = _created(client, inputs, EXTENDED_S), _Silence()
        with silence.listened_to(client, name):
            first = client.wait(name)
            first_s = first.end_time.ToNanoseconds() / 1e9 - first.start_time.ToNanoseconds() / 1e9
            client.extend_search(name, _MORE_TRIALS, EXTENDED_S)
            queued = time.time()
            ended = client.wait(name)
        return _row(ended, 2 * EXTENDED_S, first_s + ended.end_time.ToNanoseconds() / 1e9 - queued, silence)


def _row(ended: search_pb2.Search, wall_s: int, took_s: float, silence: _Silence) -> Row:
    return {
        "state": search_pb2.Search.State.Name(ended.state),
        "message": ended.state_message,
        "candidates": ended.candidate_count,
        "wall_s": wall_s,
        "took_s": round(took_s, 1),
        "over_s": round(took_s - max(1.1 * wall_s, wall_s + 20), 1),
        "longest_silence_s": round(silence.longest_s, 2),
        "words": silence.words,
    }


def checks(rows: Sequence[Row]) -> list[Check]:
    """Line 2 of "promises"."""
    answered = [row for row in rows if row["state"] in ("SUCCEEDED", "INFEASIBLE")]
    in_words = [row for row in rows if row["state"] == "FAILED" and "Allow at least" in row["message"]]
    silences = [row["longest_silence_s"] for row in rows]
    return [
        Check("promises 2 searches within their wall time", sum(row["over_s"] <= 0 for row in answered + in_words), ">= 10"),
        Check("promises 2 of them with an answer", len(answered), ">= 10", "goal"),
        Check("promises 2 of them resumed", sum("worked_before_s" in row and row["over_s"] <= 0 for row in answered), ">= 1"),
        Check("promises 2 longest silence, s", max(silences, default=None), "< 5"),
    ]
