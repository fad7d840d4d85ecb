"""What stands before the first trial, and what of it outlives its worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from search import setup
from search.setup import prepare
from tests.search.small_search import small_search


def test_the_step_that_was_timed_outlives_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the sensitivities were known: the next one neither guesses nor times it again."""
    small = small_search(tmp_path, epochs=12.0)
    monkeypatch.setattr(setup, "fastest_step", lambda *_: ("bfloat16", 0.0123))
    first = prepare(small.spec, small.environment)

    def never(*_: object) -> tuple[str, float]:
        raise AssertionError("it is timed once")

    monkeypatch.setattr(setup, "fastest_step", never)
    second = prepare(small.spec, small.environment)
    assert first.known.pace.step_s == second.known.pace.step_s == 0.0123
    assert first.evaluator.settings.training_dtype == second.evaluator.settings.training_dtype == "bfloat16"
    assert first.known.effort == second.known.effort
