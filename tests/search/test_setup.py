"""What stands before the first trial, and what of it outlives its worker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from search import setup
from search.setup import prepare
from tests.search.small_search import small_search


def test_the_step_that_was_timed_outlives_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the sensitivities were known: the next one neither guesses nor times it again."""
    small = small_search(tmp_path, epochs=12.0)
    monkeypatch.setattr(setup, "training_step_s", lambda *_: 0.0123)
    first = prepare(small.spec, small.environment)
    monkeypatch.setattr(setup, "training_step_s", never)
    second = prepare(small.spec, small.environment)
    assert first.known.pace.step_s == second.known.pace.step_s == 0.0123
    assert first.known.effort == second.known.effort


def test_the_type_of_training_outlives_its_worker_and_is_float32_where_epochs_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "fastest_step", lambda *_: ("bfloat16", 0.0123))
    for epochs, dtype in ((12.0, "float32"), (None, "bfloat16")):
        small = small_search(tmp_path / dtype, epochs=epochs)
        lives = [prepare(small.spec, small.environment) for _ in range(2)]
        assert [life.evaluator.settings.training_dtype for life in lives] == [dtype, dtype]
        assert lives[0].context.training_dtype == dtype
        extended = replace(small.spec, effort=replace(small.spec.effort, max_wall_time_s=1200.0))
        small.store.save_phase("effort", {"rung_steps": [0], "batch_size": 128})
        monkeypatch.setattr(setup, "training_step_s", lambda *_: 0.0456)
        again = prepare(extended, small.environment)
        assert again.known.pace.step_s == 0.0456
        assert again.evaluator.settings.training_dtype == dtype


def never(*_: object) -> float:
    raise AssertionError("it is timed once")
