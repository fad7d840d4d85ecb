"""Epochs that the wall time does not hold are not planned; what is planned is kept for the life of a search."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from search import step_time
from search.effort_plan import (
    LEAST_SHARE,
    EffortCosts,
    effort_notes,
    expected_trials,
    least_share,
    plan_effort,
    remember_effort,
    remembered_effort,
)
from search.step_time import fastest_step, training_step_s
from techniques import lift
from techniques.effort import TrainingEffort
from tests.search.memory import MemoryStore
from tests.techniques.small_networks import BakedView

ASKED = TrainingEffort((0, 30, 90), 128)


def test_what_fits_is_trained_as_asked() -> None:
    assert plan_effort(ASKED, 14, EffortCosts(step_s=0.1, untrained_s=2.0, left_s=400.0)) is ASKED


def test_a_slow_machine_trains_less_so_that_all_trials_fit() -> None:
    costs = EffortCosts(step_s=0.5, untrained_s=3.0, left_s=300.0)
    planned = plan_effort(ASKED, 14, costs)
    counts = expected_trials(14, 3)
    spent_s = 14 * 3.0 + 0.5 * sum(count * steps for count, steps in zip(counts, planned.rung_steps, strict=True))
    assert planned.rung_steps[0] == 0
    assert 0 < planned.rung_steps[1] < 30
    assert planned.rung_steps[2] < 90
    assert spent_s == pytest.approx(300.0, rel=0.03)


@pytest.mark.parametrize("left_s", [160.0, 400.0])
def test_training_is_never_cut_to_noise(left_s: float) -> None:
    planned = plan_effort(ASKED, 14, EffortCosts(step_s=5.0, untrained_s=3.0, left_s=left_s))
    assert planned.rung_steps == (0, 8, 23)
    assert sum(planned.rung_steps) / sum(ASKED.rung_steps) == pytest.approx(LEAST_SHARE, rel=0.05)


def test_candidates_are_compared_untrained_rather_than_by_noise() -> None:
    """Fourteen candidates with sixteen steps each read 0.56 and then 0.39: the time is better spent on a few."""
    asked, store = replace(ASKED, last_steps=500), MemoryStore()
    costs = EffortCosts(step_s=0.4, untrained_s=8.0, left_s=250.0)
    planned = plan_effort(asked, 14, costs, least_share(asked, None))
    assert planned == TrainingEffort((0,), 128, last_steps=620)
    remember_effort(store, asked, planned, 1.5, 14, costs)
    assert "compared untrained" in effort_notes(store)[0]
    assert remembered_effort(store) == planned
    enough = plan_effort(asked, 14, replace(costs, left_s=300.0), least_share(asked, None))
    assert 60 <= sum(enough.rung_steps) < 120


@pytest.mark.parametrize("left_s", [-50.0, 0.0, 40.0])
def test_what_does_not_hold_one_training_trains_nothing_and_says_so(left_s: float) -> None:
    """A search of a minute spent it on the teacher's outputs, and had no candidate at the end."""
    costs, store = EffortCosts(step_s=5.0, untrained_s=3.0, left_s=left_s), MemoryStore()
    planned = plan_effort(ASKED, 14, costs)
    assert planned == TrainingEffort((0,), 128)
    remember_effort(store, ASKED, planned, 1.5, 14, costs)
    assert "candidates are not trained at all" in effort_notes(store)[0]


def test_the_first_few_reach_every_rung_and_half_of_the_others() -> None:
    assert expected_trials(2, 3) == [2, 2, 2]
    assert expected_trials(13, 3) == [13, 8, 5.5]


def test_the_plan_is_kept_and_said() -> None:
    store, costs = MemoryStore(), EffortCosts(0.5, 3.0, 300.0)
    assert remembered_effort(store) is None
    assert not effort_notes(store)
    remember_effort(store, ASKED, TrainingEffort((0, 15, 45), 128), 1.5, 14, costs)
    assert remembered_effort(store) == TrainingEffort((0, 15, 45), 128)
    (note,) = effort_notes(store)
    assert "0.75 epochs instead of 1.5" in note
    assert "300 s for 14 trials" in note
    assert [event.message for event in store.events] == [note]


def test_an_effort_as_asked_has_no_note() -> None:
    store = MemoryStore()
    remember_effort(store, ASKED, ASKED, 1.5, 14, EffortCosts(0.01, 3.0, 300.0))
    assert not effort_notes(store)
    assert not store.events


def test_a_step_is_timed_and_leaves_the_network_as_it_was() -> None:
    network = lift.from_module(BakedView().eval(), (1, 14, 14))
    before = {name: value.clone() for name, value in network.graph.state_dict().items()}
    assert training_step_s(network, torch.randn(8, *network.input_shape), "classes") > 0
    assert all(torch.equal(value, before[name]) for name, value in network.graph.state_dict().items())


@dataclass(frozen=True)
class Timed:
    """Seconds of a step in bfloat16, of few images and of all, where float32 takes 0.05 and 0.2; and the type that is taken."""

    label: str
    few_s: float
    all_s: float
    taken: str
    apart: float = 0.0
    known: bool = True


@pytest.mark.parametrize(
    "case",
    [
        Timed("faster", 0.03, 0.1, "bfloat16"),
        Timed("hardly faster", 0.04, 0.18, "float32"),
        Timed("emulated", 0.1, 0.1, "float32"),
        Timed("other gradients", 0.03, 0.1, "float32", apart=0.3),
        Timed("no numbers", 0.03, 0.1, "float32", apart=math.nan),
        Timed("does not run", -1.0, 0.1, "float32"),
        Timed("unknown to the processor", 0.03, 0.1, "float32", known=False),
    ],
    ids=lambda case: case.label,
)
def test_a_step_is_in_the_type_that_is_clearly_faster_and_agrees(case: Timed, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretended(
        _: object, images: torch.Tensor, task: str, device: str, dtype: str, steps: int
    ) -> tuple[float, tuple[torch.Tensor, torch.Tensor]]:
        same, few = (torch.ones(4), torch.ones(4)), len(images) < 64
        if dtype == "float32":
            return (0.05 if few else 0.2), same
        if case.few_s < 0:
            raise TypeError("not for 'BFloat16'")
        return (case.few_s if few else case.all_s), (same[0], same[1] + case.apart)

    monkeypatch.setattr(step_time, "_steps", pretended)
    monkeypatch.setattr(step_time, "_has_bfloat16", lambda _: case.known)
    network = lift.from_module(BakedView().eval(), (1, 14, 14))
    expected = (case.taken, case.all_s if case.taken == "bfloat16" else 0.2)
    assert fastest_step(network, torch.zeros(64, 1, 14, 14), "classes") == expected


def test_gradients_in_both_types_agree_where_nothing_saturates() -> None:
    network = lift.from_module(BakedView().eval(), (1, 14, 14))
    images = torch.randn(8, *network.input_shape, generator=torch.Generator().manual_seed(0))
    plain, rounded = (step_time._steps(network, images, "classes", "cpu", dtype, 1)[1] for dtype in ("float32", "bfloat16"))
    apart = [step_time._apart(a, b) for a, b in zip(plain, rounded, strict=True)]
    assert 0 < max(apart) < step_time._MOST_APART
