from __future__ import annotations

from collections.abc import Sequence

import pytest

from paretopress.runtime.quiet import QuietMachine


def machine(monkeypatch: pytest.MonkeyPatch, slowdowns: Sequence[float], patience_s: float = 100.0) -> QuietMachine:
    """A machine whose probes find the given slowdowns, one after the other."""
    made = QuietMachine(1, patience_s, settle_s=0.0)
    left = iter(slowdowns)
    monkeypatch.setattr(made, "_slowdown", lambda: next(left))
    return made


def test_work_between_two_quiet_moments_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = machine(monkeypatch, [1.0, 1.05])
    assert quiet.work(iter([1, 2]).__next__) == 1
    assert (quiet.attempts, quiet.disturbed) == (1, 0)


def test_disturbed_work_is_done_again_once_the_machine_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = machine(monkeypatch, [1.0, 2.0, 1.9, 1.8, 1.0, 1.0])
    assert quiet.work(iter([1, 2]).__next__) == 2
    assert (quiet.attempts, quiet.disturbed) == (2, 1)


def test_without_patience_the_quietest_attempt_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = machine(monkeypatch, [1.0, 2.0], patience_s=0.0)
    assert quiet.work(iter([1, 2]).__next__) == 1
    assert quiet.disturbed == 1


def test_real_probes_know_how_fast_the_machine_is_at_its_best() -> None:
    assert QuietMachine(1, 0.0, settle_s=0.3)._slowdown() >= 1.0
