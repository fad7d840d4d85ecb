"""Finalists that cannot be exported or measured, a search that is cancelled or out of time: the finals, without Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hw_models.targets import get_target
from paretopress.runtime import session
from search import baseline, conclusion
from search.attempts import Attempts
from search.conclusion import run_finals
from search.errors import SearchCancelledError, SearchError
from search.evaluation.latency import LatencyError, LatencyResult
from search.evaluation.reading import Reading
from search.finalists import Exported, read_selection
from search.finals_time import FinalsTime
from search.pareto import MAX_FINALISTS
from search.protocols import BASELINE, CandidateRecord, Measurement
from search.spec import Budget, SearchSpec
from techniques.head import Head
from techniques.recipe import Recipe
from tests.search.memory import FolderBlobs, MemoryStore

CANDIDATES = 10


def loops_for_ever(*_: object) -> None:
    while True:
        pass


def raises(*_: object) -> None:
    raise KeyError("stage3.conv")


def _record(number: int, name: str = "") -> CandidateRecord:
    return CandidateRecord(
        candidate_id=name or f"c{number:04d}",
        trial_number=number,
        recipe_json=Recipe().to_json(),
        seed=0,
        rung=0,
        accuracy={"validation": 0.9},
        accuracy_interval={"validation": (0.88, 0.92)},
        drop_points={"validation": (0.0, -0.1, 0.1)},
        measurements={"latency_ms": Measurement(1.0 + number / 10, "predicted"), "onnx_size_bytes": Measurement(100, "predicted")},
    )


@dataclass
class Finals:
    """Finals of ten candidates, the fastest first; ``breaks`` says what exporting some of them does."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    breaks: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    unmeasurable: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    limit_s: float = 0.3
    store: MemoryStore = field(default_factory=MemoryStore)
    exported: list[str] = field(default_factory=list)
    measured: list[list[str]] = field(default_factory=list)
    waits_until: list[float] = field(default_factory=list)

    def run(self, ends_at: float = 1e18) -> conclusion.Finals:
        for number in range(CANDIDATES):
            self.store.save_candidate(_record(number))
        self.monkeypatch.setattr(conclusion, "export", self._export)
        self.monkeypatch.setattr(conclusion, "read_selection", lambda files, *_: files)
        self.monkeypatch.setattr(conclusion, "file_accuracy", lambda *_: SimpleNamespace(value=0.9, interval=(0.88, 0.92)))
        self.monkeypatch.setattr(conclusion, "run_quietly", self._measure)
        self.monkeypatch.setattr(conclusion, "Attempts", partial(Attempts, limit_s=self.limit_s))
        setup: Any = SimpleNamespace(
            spec=SearchSpec("model", "dataset", "target", Budget(latency_ms=9.0, max_accuracy_drop_points=5.0)),
            original=SimpleNamespace(file=b"onnx", data=SimpleNamespace(split=lambda name: SimpleNamespace(labels=None))),
            runner=SimpleNamespace(cpus=1),
            target=get_target("cpu-ort-1t"),
            finals_time=FinalsTime(file_s=1.0, latency_ms=1.0),
            reading=None,
            baseline=_record(-1, BASELINE),
            pricer=None,
            evaluator=SimpleNamespace(
                files=SimpleNamespace(interrupt=self.folder / "interrupt"), settings=SimpleNamespace(untrained_limit_s=0.0)
            ),
        )
        environment: Any = SimpleNamespace(store=self.store, blobs=FolderBlobs(self.folder / "blobs"))
        return run_finals(setup, environment, ends_at)

    def _export(self, record: CandidateRecord, *_: object) -> Exported:
        self.exported.append(record.candidate_id)
        self.breaks.get(record.candidate_id, lambda: None)()
        drops = {**record.drop_points, "selection": record.drop_points["validation"]}
        accuracy = {**record.accuracy, "selection": 0.9}
        return Exported(
            replace(record, drop_points=drops, accuracy=accuracy, state="finalist"),
            b"onnx",
            self.notes.get(record.candidate_id, ""),
        )

    def _measure(
        self, function: object, runner: object, runtime: object, files: Mapping[str, bytes], *_: object, **named: Any
    ) -> Any:
        self.measured.append(sorted(files))
        assert 0 < named["limit_s"]() <= 60
        self.waits_until.append(named["ends_at"])
        if named["should_stop"]():
            raise SearchCancelledError("cancelled on request")
        if self.unmeasurable in files:
            raise LatencyError(f"measuring failed: error: ONNX Runtime cannot load {self.unmeasurable}")
        measurement = Measurement(1.0, "measured", 0.1, 3)
        return {name: LatencyResult(measurement, 1.1, (1.0, 1.0, 1.0), 1.0, False) for name in files}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(raises, "could not be exported: KeyError: 'stage3.conv'"), (loops_for_ever, "could not be exported: took more than 0 s")],
    ids=["raises", "hangs"],
)
def test_a_finalist_that_cannot_be_exported_has_failed_and_the_next_best_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., Any], reason: str
) -> None:
    finals = Finals(tmp_path, monkeypatch, {"c0001": broken})
    found = finals.run()
    assert [r.candidate_id for r in found.finalists] == [f"c{n:04d}" for n in range(CANDIDATES) if n != 1][:MAX_FINALISTS]
    failed = finals.store.records["c0001"]
    assert failed.state == "failed"
    assert failed.error.startswith(reason)
    assert [e.message for e in finals.store.events if e.kind == "warning"] == [f"c0001 {failed.error}"]


def test_measuring_waits_for_the_machine_no_longer_than_the_wall_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finals = Finals(tmp_path, monkeypatch)
    finals.run(ends_at=1e12)
    assert finals.waits_until == [1e12]


def test_what_was_changed_or_counted_otherwise_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finals = Finals(tmp_path, monkeypatch, notes={"c0001": "c0001 was changed"})
    found = finals.run()
    assert found.notes == ("c0001 was changed",)
    assert [e.message for e in finals.store.events if e.kind == "warning"] == ["c0001 was changed"]


def test_a_finalist_that_the_runtime_does_not_measure_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finals = Finals(tmp_path, monkeypatch, unmeasurable="c0002")
    found = finals.run()
    assert "c0002" not in {r.candidate_id for r in found.finalists}
    assert len(found.finalists) == MAX_FINALISTS - 1
    assert finals.store.records["c0002"].error.startswith("could not be measured: measuring failed")
    assert len(finals.measured) == 2


def test_finals_without_any_finalist_say_what_each_died_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finals = Finals(tmp_path, monkeypatch, {f"c{n:04d}": raises for n in range(CANDIDATES)})
    with pytest.raises(SearchError, match=r"no finalist .*c0000 could not be exported: KeyError"):
        finals.run()


def test_cancelling_in_the_finals_ends_them_and_keeps_the_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finals = Finals(tmp_path, monkeypatch, limit_s=60.0)

    def hangs_and_is_cancelled() -> None:
        finals.store.stop = True
        loops_for_ever()

    finals.breaks = {"c0003": hangs_and_is_cancelled}
    begin = time.monotonic()
    with pytest.raises(SearchCancelledError):
        finals.run()
    assert time.monotonic() - begin < 5
    assert finals.exported == ["c0000", "c0001", "c0002", "c0003"]
    assert {r.state for r in finals.store.candidates()} == {"evaluated"}


def test_behind_the_wall_time_no_further_finalist_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finals = Finals(tmp_path, monkeypatch)
    found = finals.run(ends_at=time.monotonic() - 1)
    assert [r.candidate_id for r in found.finalists] == ["c0000"]
    assert "the wall time was up: 1 of 8 finalists are exported" in [e.message for e in finals.store.events]


def test_a_finalist_leaves_time_for_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finals = Finals(tmp_path, monkeypatch)
    found = finals.run(ends_at=time.monotonic() + 4.0)
    assert [r.candidate_id for r in found.finalists] == ["c0000"], "two files take five rounds of half a second each, and more"


def test_what_ended_the_trials_does_not_end_the_finals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupt").touch()
    Finals(tmp_path, monkeypatch).run()
    assert not (tmp_path / "interrupt").exists()


@pytest.mark.parametrize(("name", "level"), [("cpu-ort-1t", "all"), ("cpu-ort-1t-extended", "extended")])
def test_accuracy_is_that_of_the_program_that_the_target_runs(name: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def run(onnx: bytes, images: np.ndarray, **given: Any) -> np.ndarray:
        asked.append(given)
        return np.eye(2, dtype=np.float32)[np.arange(len(images)) % 2]

    monkeypatch.setattr(session, "run_classifier", run)
    view: Any = SimpleNamespace(labels=np.arange(8) % 2, batches=lambda count: [(range(8), torch.zeros(8, 1, 2, 2))])
    reading, target = Reading("top1", Head((2,))), get_target(name)
    original = baseline.file_accuracy(b"onnx", view, reading, None, target, 3)
    read = read_selection(Exported(_record(0), b"onnx"), view, original, reading, target, 3)
    assert read.record.accuracy["selection"] == 1.0
    assert asked == [{"threads": 3, "optimization": level}] * 2
