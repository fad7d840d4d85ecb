"""Processes that train start with what their threads and their memory need."""

from __future__ import annotations

import pytest

from search.process_variables import KEPT_MEMORY, WAIT_POLICY, with_training_variables
from service.workers.supervision import child_environment


def test_a_worker_starts_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*WAIT_POLICY, *KEPT_MEMORY):
        monkeypatch.delenv(name, raising=False)
    assert child_environment().items() >= {**WAIT_POLICY, **KEPT_MEMORY}.items()


def test_what_an_operator_has_set_stays_and_is_not_mixed_with_ours() -> None:
    found = with_training_variables({"OMP_WAIT_POLICY": "ACTIVE", "MALLOC_TRIM_THRESHOLD_": "1"})
    assert found == {**KEPT_MEMORY, "OMP_WAIT_POLICY": "ACTIVE", "MALLOC_TRIM_THRESHOLD_": "1"}
