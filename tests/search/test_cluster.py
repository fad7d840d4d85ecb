"""Getting into a cluster, and waiting for one, in words; no Ray runs here. ``benchmarks/promises_cluster`` has real nodes."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial

from search.errors import ClusterError, RuntimeLostError
from search.execution import cluster, node_watch
from search.execution.cluster import Claim, Node, claim_of, connect
from search.execution.node_watch import NodeWatch
from search.execution.runtime import RunnerSettings, ray_runtime
from tests.service.ports import free_port

LARGE, SMALL = Node("a" * 56, "10.0.0.1", 4), Node("b" * 56, "10.0.0.2", 1)
WITH_GPU = Node("c" * 56, "10.0.0.3", 2, 1)


class Listener:
    """The driver, as far as a watch talks to it."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, bool]] = []

    def note(self, message: str, facts: dict[str, Any] | None = None, warning: bool = False) -> None:
        self.notes.append((message, warning))

    def heard(self, words: str) -> bool:
        return any(words in message for message, _ in self.notes)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """The nodes that are alive; to be changed."""
    alive = [LARGE, SMALL]
    for module in (cluster, node_watch):
        monkeypatch.setattr(module, "living_nodes", lambda: list(alive))
    monkeypatch.setattr(node_watch, "has_room", lambda: False)  # Ray would start one of its own to answer
    monkeypatch.setattr(
        cluster, "available_resources_per_node", lambda: {LARGE.node_id: {"CPU": 1.0}, WITH_GPU.node_id: {"CPU": 1.0, "GPU": 0.5}}
    )
    return alive


def trials(*states: str) -> Any:
    return [SimpleNamespace(status=state) for state in states]


def test_an_address_where_nobody_listens_is_told_within_seconds(tmp_path: Path) -> None:
    """Ray itself tries for ten minutes."""
    settings = RunnerSettings(2, tmp_path, f"127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(RuntimeLostError, match="no Ray cluster answers"), ray_runtime(settings):
        pass
    assert time.monotonic() - began < 5


def test_an_address_of_a_client_is_refused_with_what_to_do() -> None:
    with pytest.raises(ClusterError, match="ray start --address"):
        connect("ray://127.0.0.1:10001")


def test_trials_claim_what_fits_and_keep_their_threads(nodes: list[Node]) -> None:
    assert claim_of(2) == Claim(2)
    assert claim_of(8) == Claim(4)
    nodes.clear()
    assert claim_of(2) == Claim(2)


def test_trials_on_gpus_claim_what_fits_on_the_largest_node_that_has_one(nodes: list[Node]) -> None:
    nodes.append(WITH_GPU)
    claim = claim_of(8, gpus=0.5)
    assert claim == Claim(2, 0.5)
    assert [claim.fits(node) for node in nodes] == [False, False, True]


def test_what_trials_on_gpus_wait_for_names_gpus(nodes: list[Node]) -> None:
    nodes.append(WITH_GPU)
    listener = Listener()
    watch = NodeWatch(listener, lambda: claim_of(1, gpus=1.0), 0.0)  # type: ignore[arg-type]
    assert listener.heard("without a GPU, and so without trials: aaaaaaaa (10.0.0.1, 4 CPUs), bbbbbbbb (10.0.0.2, 1 CPU);")
    time.sleep(0.01)
    watch.on_step_begin(1, trials(Trial.PENDING))
    assert "waited for a node with 1 CPU and 1 GPU to spare for" in watch.gave_up
    assert "1 and 0.5 GPUs free on cccccccc (10.0.0.3, 2 CPUs, 1 GPU)" in watch.gave_up


def test_a_watch_names_nodes_that_are_new_too_small_or_lost(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_watch, "_LOOK_EVERY_S", 0.0)
    listener = Listener()
    watch = NodeWatch(listener, lambda: claim_of(2), 60.0)  # type: ignore[arg-type]
    assert listener.heard("nodes: aaaaaaaa (10.0.0.1, 4 CPUs), bbbbbbbb (10.0.0.2, 1 CPU)")
    assert listener.heard("too small for a trial of 2 CPUs: bbbbbbbb")
    nodes.remove(LARGE)
    watch.on_step_begin(1, trials(Trial.RUNNING))
    assert listener.heard("node aaaaaaaa (10.0.0.1, 4 CPUs) was lost")
    assert watch.lost == 1
    nodes.append(LARGE)
    watch.on_step_begin(2, trials(Trial.RUNNING))
    assert listener.notes[-1] == ("nodes: aaaaaaaa (10.0.0.1, 4 CPUs)", False)


def test_where_the_last_large_node_is_lost_trials_take_what_there_is(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_watch, "_LOOK_EVERY_S", 0.0)
    listener = Listener()
    watch = NodeWatch(listener, lambda: claim_of(4), 60.0)  # type: ignore[arg-type]
    nodes.remove(LARGE)
    watch.on_step_begin(1, trials(Trial.PENDING))
    assert watch.claim == Claim(1)
    assert listener.heard("no node is left with 4 CPUs: trials go on with 1 CPU")
    nodes.append(LARGE)
    watch.on_step_begin(2, trials(Trial.RUNNING))
    assert watch.claim == Claim(1)


def test_where_only_gpus_will_do_trials_wait_for_one_to_come_back(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_watch, "_LOOK_EVERY_S", 0.0)

    def claim_now() -> Claim:
        if WITH_GPU not in nodes:
            raise ClusterError("there is no GPU")
        return claim_of(2, gpus=1.0)

    nodes.append(WITH_GPU)
    watch = NodeWatch(Listener(), claim_now, 60.0)  # type: ignore[arg-type]
    nodes.remove(WITH_GPU)
    watch.on_step_begin(1, trials(Trial.PENDING))
    assert watch.claim == Claim(2, 1.0)


def test_what_trials_wait_for_is_told_and_not_for_ever(nodes: list[Node]) -> None:
    listener = Listener()
    watch = NodeWatch(listener, lambda: claim_of(2), 0.2)  # type: ignore[arg-type]
    watch.on_step_begin(1, trials(Trial.PENDING))
    time.sleep(0.12)
    watch.on_step_begin(2, trials(Trial.PENDING))
    assert listener.heard("trials have waited for a node with 2 CPUs to spare for 0 s, at most 0 s: 1 free on aaaaaaaa")
    assert watch.gave_up == ""
    time.sleep(0.12)
    watch.on_step_begin(3, trials(Trial.PENDING))
    assert "0 free on bbbbbbbb" in watch.gave_up


def test_processes_that_start_are_not_taken_for_a_want_of_room(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_watch, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(node_watch, "has_room", lambda: True)
    listener = Listener()
    watch = NodeWatch(listener, lambda: claim_of(2), 0.2)  # type: ignore[arg-type]
    for _ in range(2):
        watch.on_step_begin(1, trials(Trial.PENDING))
        time.sleep(0.12)
    watch.on_step_begin(2, trials(Trial.PENDING))
    assert listener.heard("trials have a node, and have waited for their processes to start")
    assert not listener.heard("waited for a node with")


def test_nothing_is_waited_for_while_a_trial_runs(nodes: list[Node]) -> None:
    watch = NodeWatch(Listener(), lambda: claim_of(2), 0.05)  # type: ignore[arg-type]
    for states in ((Trial.RUNNING, Trial.PENDING), (), (Trial.PENDING,)):
        time.sleep(0.03)
        watch.on_step_begin(1, trials(*states))
    assert watch.gave_up == ""
