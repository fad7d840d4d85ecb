from __future__ import annotations

from pathlib import Path

from search.sampler import PolicySampler
from search.space import Policy, search_space

TECHNIQUES = ("block_removal", "structured_pruning", "low_rank", "int8_quantization", "distillation", "input_resolution")


def _run(path: Path, seed: int, trials: int) -> list[Policy]:
    sampler = PolicySampler(search_space(TECHNIQUES, True), seed, path)
    policies = []
    for number in range(trials):
        policy = sampler.ask(number)
        policies.append(policy)
        sampler.tell(number, (policy.depth_cost, policy.tightness, policy.width_cost), (policy.rank_cost - 1,))
    return policies


def test_the_same_seed_proposes_the_same_policies(tmp_path: Path) -> None:
    first = _run(tmp_path / "a.db", 3, 12)
    assert first == _run(tmp_path / "b.db", 3, 12)
    assert first != _run(tmp_path / "c.db", 4, 12)


def test_a_rebuilt_study_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole.db", 3, 13)
    rebuilt = PolicySampler(search_space(TECHNIQUES, True), 3, tmp_path / "rebuilt.db")
    for policy in whole[:12]:
        rebuilt.restore(policy.to_json(), (policy.depth_cost, policy.tightness, policy.width_cost), (policy.rank_cost - 1,))
    assert rebuilt.ask(12) == whole[12]


def test_a_failed_trial_is_no_result(tmp_path: Path) -> None:
    sampler = PolicySampler(search_space(TECHNIQUES, True), 0, tmp_path / "o.db")
    sampler.ask(0)
    sampler.tell_failed(0)
    assert isinstance(sampler.ask(1), Policy)


def test_what_may_not_be_used_is_not_searched() -> None:
    space = search_space(("structured_pruning",), size_is_free=True)
    assert {p.name for p in space.parameters} == {"tightness", "width_cost", "importance"}
    assert all(policy.precision == "fp32" for policy in space.first)
