from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.util import placement_group, remove_placement_group

from search.errors import ClusterError, RuntimeLostError
from search.execution import cluster, node_watch, runner
from search.execution.cluster import Node, gpu_claim
from search.execution.runner import run_quietly, run_trials
from search.execution.runtime import RunnerSettings, ray_runtime
from search.execution.trial import TrialActor, TrialPlan
from search.execution.word import Tell, Word


class Evaluator:
    device = "cpu"
    tell: Tell | None = None

    def on_device(self, device: str) -> Evaluator:
        self.device = device
        return self

    def evaluate(self, plan: TrialPlan, rung: int) -> Mapping[str, Any]:
        if plan.payload.get("fails"):
            raise ValueError("this recipe cannot be built")
        return {"accuracy": plan.number / 10, "pid": os.getpid(), "rung": rung, "device": self.device}


class Driver:
    """Three rungs; trial 1 stops after the first, trial 3 fails."""

    def __init__(self, trials: int, stop_after: int = 1000) -> None:
        self.trials, self.stop_after = trials, stop_after
        self.proposed = 0
        self.reports: list[tuple[int, int]] = []
        self.pids: set[int] = set()
        self.devices: set[str] = set()
        self.failures: list[tuple[int, int, str]] = []
        self.database = threading.Lock()  # a driver holds what cannot be pickled

    def propose(self) -> TrialPlan | None:
        if self.proposed >= self.trials:
            return None
        self.proposed += 1
        return TrialPlan(self.proposed - 1, {"fails": self.proposed - 1 == 3})

    def report(self, number: int, rung: int, values: Mapping[str, Any]) -> bool:
        self.reports.append((number, rung))
        self.pids.add(values["pid"])
        self.devices.add(values["device"])
        return number != 1 and rung < 2

    def failed(self, number: int, rung: int, message: str) -> None:
        self.failures.append((number, rung, message))

    def note(self, message: str, facts: Mapping[str, Any] | None = None, warning: bool = False) -> None:
        raise AssertionError(f"there is no cluster, but: {message}")

    def heard(self, word: Word) -> None:
        raise AssertionError(f"nothing is trained, but: {word}")

    def should_stop(self) -> bool:
        return len(self.reports) >= self.stop_after


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One GPU, which nothing but Ray knows of: trials that are to keep off it compute nothing on it."""
    settings = RunnerSettings(cpus=2, gpus=1, train_device="cpu", storage_path=tmp_path_factory.mktemp("tune"), parallel_trials=1)
    with ray_runtime(settings):
        yield settings


def test_trials_go_up_the_rungs_as_the_driver_says_on_one_reused_actor(settings: RunnerSettings) -> None:
    driver = Driver(5)
    run_trials(driver, Evaluator(), settings)
    assert driver.reports == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (2, 2), (4, 0), (4, 1), (4, 2)]
    assert driver.failures == [(3, 0, "ValueError: this recipe cannot be built")]
    assert len(driver.pids) == 1
    assert driver.devices == {"cpu"}
    assert os.getpid() not in driver.pids


class Noting(Driver):
    def __init__(self, trials: int) -> None:
        super().__init__(trials)
        self.notes: list[tuple[str, bool]] = []

    def note(self, message: str, facts: Mapping[str, Any] | None = None, warning: bool = False) -> None:
        self.notes.append((message, warning))


def test_trials_ask_for_the_gpu_that_ray_has_and_train_nowhere_else_where_that_is_asked_for(settings: RunnerSettings) -> None:
    driver = Noting(1)
    run_trials(driver, Evaluator(), replace(settings, train_device="cuda"))
    assert driver.devices == {"cuda"}
    assert driver.notes == [("candidates are trained on GPUs, 1 for each trial", False)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch has CUDA here")
def test_a_gpu_that_torch_cannot_use_is_told_once_and_the_cpu_trains(settings: RunnerSettings) -> None:
    driver = Noting(3)
    run_trials(driver, Evaluator(), replace(settings, train_device="auto"))
    assert driver.devices == {"cpu"}
    words = "Ray gives trials a GPU of this machine, but torch finds no CUDA there: they train on its CPU"
    assert driver.notes == [("candidates are trained on GPUs, 1 for each trial", False), (words, True)]


@pytest.mark.parametrize("gpu_ids", [[], [0]], ids=["none given", "one given"])
def test_a_trial_trains_on_the_gpu_that_it_was_given(monkeypatch: pytest.MonkeyPatch, gpu_ids: list[int]) -> None:
    monkeypatch.setattr("ray.get_gpu_ids", lambda: gpu_ids)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    evaluator, actor = Evaluator(), TrialActor.__new__(TrialActor)
    actor.setup(TrialPlan(0).to_config(), evaluator)
    assert evaluator.device == ("cuda" if gpu_ids else "cpu")


@pytest.mark.parametrize(
    ("gpus", "trials", "share"),
    [(1, 1, 1.0), (4, 2, 1.0), (1, 4, 0.25), (2, 3, 0.5), (2, 5, 1 / 3)],
    ids=["one each", "more than trials", "one for all", "two do not divide by three", "three on one and two on the other"],
)
def test_so_many_trials_share_a_gpu_that_all_of_them_have_room(
    monkeypatch: pytest.MonkeyPatch, gpus: int, trials: int, share: float
) -> None:
    monkeypatch.setattr(cluster, "living_nodes", lambda: [Node(str(number), "10.0.0.1", 2, 1) for number in range(gpus)])
    assert gpu_claim("auto", trials) == share
    assert gpus * int(1 / share) >= trials


def test_a_gpu_that_is_asked_for_and_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "living_nodes", lambda: [Node("a", "10.0.0.1", 2)])
    assert gpu_claim("auto", 1) == 0.0
    with pytest.raises(ClusterError, match="PARETOPRESS_TRAIN_DEVICE is cuda"):
        gpu_claim("cuda", 1)


def test_the_driver_hears_how_far_a_trial_is_while_its_rung_goes_on(settings: RunnerSettings) -> None:
    class Talking(Evaluator):
        def evaluate(self, plan: TrialPlan, rung: int) -> Mapping[str, Any]:
            for step in range(8):
                assert self.tell
                self.tell(Word(plan.number, rung, step / 4, 2.0))
                time.sleep(0.5)
            return super().evaluate(plan, rung)

    class Hearing(Driver):
        def heard(self, word: Word) -> None:
            words.append(word)

    words: list[Word] = []
    driver = Hearing(1, stop_after=1)
    run_trials(driver, Talking(), settings)
    assert len(words) >= 2
    assert {(word.number, word.rung, word.epochs) for word in words} == {(0, 0, 2.0)}
    assert words[0].epoch < words[-1].epoch


def test_a_driver_that_wants_to_stop_ends_the_run(settings: RunnerSettings) -> None:
    driver = Driver(50, stop_after=4)
    run_trials(driver, Evaluator(), settings)
    assert len(driver.reports) < 8


def test_quiet_calls_run_in_another_process(settings: RunnerSettings, tmp_path: Path) -> None:
    def pid() -> int:
        return os.getpid()

    assert run_quietly(pid, settings) != os.getpid()


@contextmanager
def someone_else(cpus: int, for_s: float) -> Iterator[None]:
    """Holds CPUs of the cluster for a while."""
    group = placement_group([{"CPU": cpus}])
    assert group.wait(10)
    timer = threading.Timer(for_s, remove_placement_group, (group,))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        remove_placement_group(group)


def test_the_time_for_measuring_is_what_is_left_after_waiting_for_the_machine(settings: RunnerSettings) -> None:
    def given(limit_s: float) -> float:
        return limit_s

    ends_at = time.monotonic() + 30.0
    with someone_else(1, for_s=2.0):
        limit_s = run_quietly(given, replace(settings, address="auto"), ends_at=ends_at, limit_s=lambda: ends_at - time.monotonic())
    assert 0 < limit_s < 28.5


def test_the_machine_is_waited_for_no_longer_than_the_wall_time(settings: RunnerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LEAST_WAIT_S", 0.2)
    with someone_else(1, for_s=60.0), pytest.raises(ClusterError, match="latencies need it alone"):
        run_quietly(os.getpid, replace(settings, address="auto"), ends_at=time.monotonic())


def test_an_error_of_the_called_function_is_not_taken_for_a_lost_runtime(settings: RunnerSettings) -> None:
    def fail() -> None:
        raise ValueError("the model does not run")

    with pytest.raises(ValueError, match="does not run"):
        run_quietly(fail, settings)


def test_a_process_killed_under_a_quiet_call_is_a_lost_runtime(settings: RunnerSettings) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeLostError, match="Ray went away"):
        run_quietly(die, settings)


def test_a_runtime_that_is_killed_while_it_starts_is_a_lost_runtime(
    settings: RunnerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by killing: Ray then raises a bare exception."""
    folders: list[Path] = []

    def init(**options: Any) -> None:
        folders.append(Path(options["_temp_dir"]))
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    with pytest.raises(RuntimeLostError, match="Ray did not start"), ray_runtime(settings):
        pass
    assert [folder.exists() for folder in folders] == [False]


def test_a_trial_whose_process_is_killed_twice_is_a_failed_candidate_and_the_rest_goes_on(settings: RunnerSettings) -> None:
    class Deadly(Evaluator):
        def evaluate(self, plan: TrialPlan, rung: int) -> Mapping[str, Any]:
            if plan.number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().evaluate(plan, rung)

    driver = Driver(2)
    run_trials(driver, Deadly(), settings)
    assert [(number, rung) for number, rung, _ in driver.failures] == [(0, 0)]
    assert driver.reports == [(1, 0)]


def test_a_trial_whose_process_is_killed_once_goes_on_at_its_rung(settings: RunnerSettings, tmp_path: Path) -> None:
    """Found by killing: a search of few candidates had none left."""

    class Struck(Evaluator):
        def evaluate(self, plan: TrialPlan, rung: int) -> Mapping[str, Any]:
            if plan.number == 0 and rung == 1 and not (tmp_path / "struck").exists():
                (tmp_path / "struck").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().evaluate(plan, rung)

    driver = Driver(2)
    run_trials(driver, Struck(), settings)
    assert driver.failures == []
    assert driver.reports == [(0, 0), (0, 1), (0, 2), (1, 0)]


@dataclass(frozen=True)
class NoFiles:
    """A `TrialFiles` of nothing: trials run on the worker's own machine."""

    checkpoints: Path
    interrupt: Path
    inputs: tuple[Path, ...] = ()

    def moved(self, inputs: Mapping[Path, Path], checkpoints: Path, interrupt: Path) -> NoFiles:
        raise AssertionError("nothing is moved")


class Movable(Evaluator):
    def __init__(self, files: NoFiles) -> None:
        self.files = files

    def with_files(self, files: NoFiles) -> Movable:
        raise AssertionError("nothing is moved")


def test_trials_go_on_with_fewer_cpus_where_the_only_node_that_had_as_many_is_lost(
    settings: RunnerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by review: the claim stayed, and fitted nowhere. The lost node is pretended; Ray itself has two CPUs."""
    lost_at = time.monotonic() + 2.0
    known = cluster.living_nodes()

    def nodes() -> list[Node]:
        return known if time.monotonic() > lost_at else [*known, Node("f" * 56, "10.0.0.9", 4)]

    for module in (cluster, node_watch):
        monkeypatch.setattr(module, "living_nodes", nodes)
    driver = Noting(2)
    in_cluster = replace(settings, address="auto", trial_cpus=4, wait_limit_s=60.0)
    run_trials(driver, Movable(NoFiles(tmp_path, tmp_path / "interrupt")), in_cluster)
    assert driver.reports == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert driver.failures == []
    assert ("no node is left with 4 CPUs: trials go on with 2 CPUs", True) in driver.notes
