"""Checks of issue "promises", line 4: searches on a Ray cluster of two nodes. ``make bench-promises-cluster``, as root."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from google.protobuf.json_format import MessageToDict

from benchmarks.harness import Check, Results, Row
from benchmarks.two_nodes import SECOND, Cluster, two_nodes
from paretopress.client import Client
from paretopress.v1 import search_pb2
from service.testing import InProcessServer
from tests.service.digits_search import Inputs, make_inputs, place_predictors, search, upload

NAME = "promises_cluster"
TECHNIQUES = ("structured_pruning", "distillation", "int8_quantization")
CPUS, TRIALS, EPOCHS = 2, 4, 3.0
LONG_EPOCHS = 40.0
"""So that every process has started, and is at a rung, when the node is lost."""
WAIT_S, LIMIT_S = 30.0, 900
_TOKEN_LIMIT_S = 120.0
_HOLD = """
import sys, time, ray
ray.init(sys.argv[1], logging_level=40)
@ray.remote(num_cpus=1)
def hold(): time.sleep(600)
held = [hold.remote() for _ in range(int(sys.argv[2]))]
while ray.available_resources().get("CPU", 0): time.sleep(0.5)
print("held", flush=True); time.sleep(600)
"""


@dataclass
class Ended:
    """A search that has ended, with all that was told of it."""

    search: search_pb2.Search
    candidates: list[search_pb2.Candidate]
    duration_s: float
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def state(self) -> str:
        """In words."""
        return str(search_pb2.Search.State.Name(self.search.state))

    @property
    def tried(self) -> list[search_pb2.Candidate]:
        """All but the original."""
        return [one for one in self.candidates if not one.name.endswith("/baseline")]

    def nodes(self) -> set[str]:
        """On which candidates ran."""
        return {one.node for one in self.tried}

    def reached(self) -> dict[tuple[str, int], float]:
        """Accuracy on the validation split by recipe and rung."""
        return {(one.recipe_json, one.rung): one.accuracies["validation"].value for one in self.tried if one.accuracies}

    def told(self, words: str) -> list[dict[str, Any]]:
        """Events whose message has these words."""
        return [event for event in self.events if words in event["message"]]

    def row(self) -> Row:
        """What every cell says."""
        failed = sum(one.state == search_pb2.Candidate.FAILED for one in self.tried)
        return {"state": self.state, "candidates": len(self.tried), "failed": failed, "duration_s": round(self.duration_s, 1)}


def run(results: Results) -> None:
    """Six searches of the same small network, five of them on clusters."""
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as name:
        place = _Place(Path(name), make_inputs(Path(name)))
        results.cell("two nodes and one", lambda: _two_and_one(place))
        results.cell("second node lost", lambda: _lost(place))
        results.cell("second node has one CPU", lambda: _small(place))
        results.cell("no room", lambda: _no_room(place))
        results.cell("wrong token", lambda: _wrong_token(place))


def checks(rows: Sequence[Row]) -> list[Check]:
    """Computed from the rows."""
    by = {row["cell"]: row for row in rows}

    def figure(cell: str, key: str) -> float | None:
        value = by.get(cell, {}).get(key)
        return None if value is None else float(value)

    both, lost, small = "two nodes and one", "second node lost", "second node has one CPU"
    return [
        Check("promises 4 succeeds on two nodes", figure(both, "succeeded"), "== 1"),
        Check("promises 4 nodes in the candidates", figure(both, "nodes"), "== 2"),
        Check("promises 4 nodes without checkout and data", figure(both, "hidden"), "== 1"),
        Check("promises 4 times that a file was sent to a node", figure(both, "times_sent"), "== 1"),
        Check("promises 4 bytes of files that the worker's node was sent", figure(both, "sent_to_own_bytes"), "== 0"),
        Check("promises 4 recipes compared with one node", figure(both, "compared"), ">= 3"),
        Check("promises 4 largest difference of accuracy", figure(both, "accuracy_difference"), "== 0"),
        Check("promises 4 lost node: succeeds", figure(lost, "succeeded"), "== 1"),
        Check("promises 4 lost node: trials running on it", figure(lost, "running_there"), ">= 1"),
        Check("promises 4 lost node: trials that went on elsewhere", figure(lost, "went_on_elsewhere"), ">= 1"),
        Check("promises 4 lost node: failed candidates", figure(lost, "failed"), "== 0"),
        Check("promises 4 lost node: told", figure(lost, "told"), ">= 1"),
        Check("promises 4 one CPU: succeeds", figure(small, "succeeded"), "== 1"),
        Check("promises 4 one CPU: told", figure(small, "told"), ">= 1"),
        Check("promises 4 one CPU: runs trials of one CPU", figure(small, "ran_there"), ">= 1"),
        Check("promises 4 no room: told what is waited for", figure("no room", "told"), ">= 1"),
        Check("promises 4 no room: ends in words", figure("no room", "in_words"), "== 1"),
        Check("promises 4 wrong token: refused in words", figure("wrong token", "in_words"), "== 1"),
        Check("promises 4 wrong token: seconds", figure("wrong token", "duration_s"), f"<= {_TOKEN_LIMIT_S:g}"),
        Check("promises 4 tokens found in files", figure(both, "tokens_found"), "== 0"),
    ]


@dataclass
class _Place:
    """A folder for all of it, and the network with its data."""

    folder: Path
    inputs: Inputs
    made: int = 0

    def new(self) -> Path:
        """A folder of its own, with a short name."""
        self.made += 1
        path = self.folder / str(self.made)
        (path / "data").mkdir(parents=True)
        return path

    @contextmanager
    def cluster(self, second_cpus: int = CPUS) -> Iterator[tuple[Cluster, Path]]:
        """Two nodes, and the worker's data folder, which the second one does not see."""
        path = self.new()
        with two_nodes(path / "ray", [path / "data"], CPUS, second_cpus) as cluster:
            yield cluster, path / "data"

    def run(
        self,
        data: Path,
        cluster: Cluster | None = None,
        trials: int = TRIALS,
        epochs: float = EPOCHS,
        meanwhile: Callable[[Client, str, dict[str, Any]], None] = lambda *_: None,
        **settings: Any,
    ) -> Ended:
        """One search in a server and a worker of its own; ``meanwhile`` gets every event as it comes."""
        if not (data / "targets").exists():
            place_predictors(data)
        defaults: dict[str, Any] = {
            "embedded_worker": True,
            "cpus": CPUS,
            "trial_cpus": CPUS,
            "measure_limit_s": 5.0,
            "cluster_wait_s": LIMIT_S,
        }
        if cluster is not None:
            defaults |= {"ray_address": cluster.address, "parallel_trials": 2}
        environment = {} if cluster is None else dict(cluster.environment)
        with (
            patch.dict(os.environ, environment),
            InProcessServer(data, **{**defaults, **settings}) as server,
            server.client() as client,
        ):
            return _searched(client, self.inputs, trials, epochs, meanwhile)


def _searched(
    client: Client, inputs: Inputs, trials: int, epochs: float, meanwhile: Callable[[Client, str, dict[str, Any]], None]
) -> Ended:
    model, dataset = upload(client, inputs)
    budget = search_pb2.Budget(latency_ms=50.0, max_accuracy_drop_points=90.0)
    request = search(model, dataset, budget, trials, epochs, TECHNIQUES, LIMIT_S)
    began = time.monotonic()
    name = client.create_search(request).name
    events = []
    for event in client.watch(name):
        events.append(MessageToDict(event, preserving_proto_field_name=True))
        print(f"{time.monotonic() - began:6.1f} s  {event.message}", file=sys.stderr, flush=True)
        meanwhile(client, name, events[-1])
    ended = client.wait(name)
    return Ended(
        ended, list(client.list_candidates(name)), time.monotonic() - began, [{"message": "", **event} for event in events]
    )


def _two_and_one(place: _Place) -> Row:
    alone = place.run(place.new() / "data")
    with place.cluster() as (cluster, data):
        seen = Path(f"/proc/{_inner(cluster)}/root")
        hidden = not any(data_seen(seen, path) for path in (data, Path(__file__).parent))
        away = _away_nodes(cluster)
        both = place.run(data, cluster)
        token = cluster.environment["RAY_AUTH_TOKEN"].encode()
        found = sum(token in path.read_bytes() for path in data.rglob("*") if path.is_file())
    sent = [event["payload"] for event in both.told("MB sent to node")]
    sizes = {path.name: path.stat().st_size for path in data.rglob("*") if path.is_file()}
    times = [count / sizes[name] for facts in sent for name, count in facts["files"].items() if name in sizes]
    common = {key: value for key, value in alone.reached().items() if key in both.reached()}
    return {
        **both.row(),
        "succeeded": int(both.state == alone.state == "SUCCEEDED"),
        "nodes": len(both.nodes()),
        "node_ids": sorted(both.nodes()),
        "hidden": int(hidden),
        "sent_bytes": sum(facts["sent_bytes"] for facts in sent),
        "received_bytes": sum(facts["received_bytes"] for facts in sent),
        "files": [facts["files"] for facts in sent],
        "times_sent": max(times, default=None),
        "sent_to_own_bytes": sum(facts["sent_bytes"] for facts in sent if facts["node"] not in away),
        "compared": len(common),
        "accuracy_difference": max((abs(value - both.reached()[key]) for key, value in common.items()), default=None),
        "alone_s": round(alone.duration_s, 1),
        "tokens_found": found,
    }


def data_seen(root: Path, path: Path) -> bool:
    """Whether a process with that root sees anything in a folder."""
    inside = root / path.relative_to("/")
    return inside.is_dir() and any(inside.iterdir())


def _inner(cluster: Cluster) -> int:
    """The first process within the second node's namespaces."""
    children = Path(f"/proc/{cluster.second.pid}/task/{cluster.second.pid}/children").read_text().split()
    return int(children[0])


def _lost(place: _Place) -> Row:
    """Killed when a trial that has reached a rung there is on the next one."""
    killed = threading.Event()
    running: list[str] = []
    with place.cluster() as (cluster, data):

        def meanwhile(client: Client, name: str, event: dict[str, Any]) -> None:
            payload = event.get("payload", {})
            if killed.is_set() or not payload.get("promoted"):
                return
            candidate = client.get_candidate(f"{name}/candidates/{payload['candidate']}")
            if candidate.node in away:
                running.append(payload["candidate"])
                killed.set()
                cluster.lose_second()

        away = _away_nodes(cluster)
        ended = place.run(data, cluster, epochs=LONG_EPOCHS, meanwhile=meanwhile)
    went_on = [one for one in ended.tried if one.name.rpartition("/")[2] in running and one.node not in away]
    return {
        **ended.row(),
        "succeeded": int(ended.state == "SUCCEEDED"),
        "running_there": len(running),
        "went_on_elsewhere": len(went_on),
        "told": len(ended.told("was lost")),
    }


def _away_nodes(cluster: Cluster) -> set[str]:
    found = f"[n['NodeID'] for n in ray.nodes() if n['NodeManagerAddress'] == '{SECOND}']"
    code = f"import ray; ray.init('auto', logging_level=40); print(*{found})"
    named = {**os.environ, **cluster.environment, "RAY_ADDRESS": cluster.address}
    done = subprocess.run([sys.executable, "-c", code], env=named, capture_output=True, text=True, cwd="/", check=True)
    return set(done.stdout.split())


def _small(place: _Place) -> Row:
    """Trials of two CPUs leave it alone, and say so; trials of one CPU run on it, too."""
    with place.cluster(second_cpus=1) as (cluster, data):
        away = _away_nodes(cluster)
        wide = place.run(data, cluster, trials=3)
        narrow = place.run(data, cluster, trials=TRIALS, trial_cpus=1, parallel_trials=3)
    return {
        **wide.row(),
        "succeeded": int(wide.state == narrow.state == "SUCCEEDED"),
        "told": len(wide.told("too small for a trial")),
        "ran_there": sum(one.node in away for one in narrow.tried),
        "narrow_s": round(narrow.duration_s, 1),
    }


def _no_room(place: _Place) -> Row:
    """Somebody else holds every CPU."""
    with place.cluster() as (cluster, data):
        named = {**os.environ, **cluster.environment}
        holder = subprocess.Popen([sys.executable, "-c", _HOLD, cluster.address, str(2 * CPUS)], env=named, stdout=subprocess.PIPE)
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            ended = place.run(data, cluster, cluster_wait_s=WAIT_S)
        finally:
            holder.kill()
            holder.wait()
    words = ended.search.state_message
    return {
        **ended.row(),
        "told": len(ended.told("trials have waited for a node")),
        "in_words": int(ended.state == "FAILED" and "trials have waited" in words),
        "message": words,
    }


def _wrong_token(place: _Place) -> Row:
    with place.cluster() as (cluster, data):
        stranger = Cluster(cluster.address, {**cluster.environment, "RAY_AUTH_TOKEN": "0" * 64}, cluster.second)
        ended = place.run(data, stranger)
    words = ended.search.state_message
    return {
        **ended.row(),
        "in_words": int(ended.state == "FAILED" and "token" in words and "0" * 64 not in words),
        "message": words,
    }
