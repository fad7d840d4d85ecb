from __future__ import annotations

from pathlib import Path

import pytest

from search.aims import AimRange
from search.options import Offered
from search.sampler import PolicySampler
from search.space import ANY, MAX_PARAMETERS, NONE, Policy, search_space
from techniques.option import AXES, NETWORK, Option
from techniques.parameters import ChoiceParameter
from tests.search.priced_options import OPTIONS

INT8 = Option("int8_quantization", "bits", NETWORK, 0.75, ("b1.conv1",), label="int8")
SMALLER = Option("input_resolution", "resolution", NETWORK, 0.143, ("b1.conv1",), label="0.857")
RANK = Option("low_rank", "rank", "b2.conv1", 0.5, ("b2.conv1",))
OFFERED = Offered((*OPTIONS, RANK, INT8, SMALLER))
AIMS = (AimRange("latency_ms", 0.1, 0.8, (0.8, 0.5, 0.3), 0.5, 0.8),)
SPACE = search_space(OFFERED, ("distillation",), AIMS)


def _values(policy: Policy) -> tuple[float, float, float]:
    return policy.cost("depth"), policy.shares()["latency_ms"], policy.cost("width")


def _run(path: Path, seed: int, trials: int) -> list[Policy]:
    sampler = PolicySampler(SPACE, seed, path)
    policies = []
    for number in range(trials):
        policy = sampler.ask(number)
        policies.append(policy)
        sampler.tell(number, _values(policy), (policy.cost("rank") - 1,))
    return policies


def test_the_same_seed_proposes_the_same_policies(tmp_path: Path) -> None:
    first = _run(tmp_path / "a.db", 3, 12)
    assert first == _run(tmp_path / "b.db", 3, 12)
    assert first != _run(tmp_path / "c.db", 4, 12)


def test_a_rebuilt_study_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole.db", 3, 13)
    rebuilt = PolicySampler(SPACE, 3, tmp_path / "rebuilt.db")
    for policy in whole[:12]:
        rebuilt.restore(policy.to_json(), _values(policy), (policy.cost("rank") - 1,))
    assert rebuilt.ask(12) == whole[12]


def test_a_policy_of_another_space_is_not_told(tmp_path: Path) -> None:
    plain, other = (PolicySampler(SPACE, 3, tmp_path / f"{name}.db") for name in "ab")
    other.restore({"share.latency_ms": 0.3, "precision": "int8"}, (0.0, 0.0, 0.0), (0.0,))
    assert [other.ask(number) for number in range(9)] == [plain.ask(number) for number in range(9)]


def test_a_policy_out_of_the_bounds_of_today_is_not_told(tmp_path: Path) -> None:
    """Another calibration moves prices, and with them the shares that are worth aiming at."""
    sampler = PolicySampler(
        search_space(OFFERED, ("distillation",), (AimRange("latency_ms", 0.1, 0.7, (0.7, 0.5, 0.3), 0.5, 0.7),)),
        3,
        tmp_path / "o.db",
    )
    policy = SPACE.first[0]
    assert policy.shares()["latency_ms"] == 0.8
    assert not sampler.knows(policy.to_json())
    sampler.restore(policy.to_json(), (0.0, 0.0, 0.0), (0.0,))
    sampler.resume(4, policy)
    sampler.tell(4, (0.0, 0.0, 0.0), (0.0,))
    sampler.tell_failed(4)
    assert isinstance(sampler.ask(5), Policy)


def test_a_failed_trial_is_no_result(tmp_path: Path) -> None:
    sampler = PolicySampler(SPACE, 0, tmp_path / "o.db")
    sampler.ask(0)
    sampler.tell_failed(0)
    assert isinstance(sampler.ask(1), Policy)


def test_a_policy_has_a_number_for_each_axis_on_which_something_can_be_done() -> None:
    names = ["share.latency_ms", "resolution", "bits", "cost.depth", "cost.width", "cost.rank"]
    settings = ["distillation.temperature", "distillation.alpha", "structured_pruning.importance"]
    assert [parameter.name for parameter in SPACE.parameters] == [*names, *settings]
    assert SPACE.first[0].pinned("bits") == INT8.option_id
    assert SPACE.first[0].pinned("resolution") == NONE


def test_what_is_not_offered_is_not_searched() -> None:
    space = search_space(Offered(OPTIONS[1:]), (), AIMS)
    assert {p.name for p in space.parameters} == {"share.latency_ms", "cost.width", "structured_pruning.importance"}
    assert all(policy.pinned("bits") == NONE for policy in space.first)


def test_techniques_on_one_axis_compete_or_are_named_by_the_policy() -> None:
    other = Option("another_pruning", "width", "b2.conv1", 0.5, ("b2.conv1",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.space.registry.all_techniques", tuple)
        space = search_space(Offered((*OPTIONS, other)), ())
    methods = next(p for p in space.parameters if p.name == "method.width")
    assert isinstance(methods, ChoiceParameter)
    assert methods.choices == (ANY, "structured_pruning", "another_pruning")
    assert Policy({"method.width": ANY}).allows("another_pruning", "width")
    assert not Policy({"method.width": "structured_pruning"}).allows("another_pruning", "width")
    assert Policy({"method.width": "structured_pruning"}).allows("another_pruning", "rank")


def test_a_policy_is_small_however_many_techniques_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.space.registry.all_techniques", tuple)
    many = [Option(f"t{n}", axis, "b1", 0.5, ("b1.conv1",)) for axis in AXES for n in range(5)]
    whole = [Option(f"t{n}", axis, NETWORK, 0.5, ("b1.conv1",), label="all") for axis in ("resolution", "bits") for n in range(5)]
    space = search_space(Offered((*many, *whole)), (), AIMS)
    assert len(space.parameters) <= MAX_PARAMETERS
    assert {f"cost.{axis}" for axis in AXES} <= {parameter.name for parameter in space.parameters}


def test_policies_that_lead_with_what_saves_most_are_tried_first() -> None:
    space = search_space(OFFERED, ("distillation",), AIMS, {"rank": 3.0, "depth": 2.0, "width": 1.0})
    leading = [axis for policy in space.first for axis in AXES if policy.cost(axis) < 1]
    assert leading == ["rank", "depth"]
