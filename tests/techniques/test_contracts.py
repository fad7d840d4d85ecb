"""The two contracts, run over every registered technique."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from techniques.apply import compress, validate_recipe
from techniques.base import Effort, TrainingMethod, Transform
from techniques.errors import ConfigError, InterruptedTrainingError, TechniqueError
from techniques.network import Network
from techniques.parameters import ChoiceParameter
from techniques.recipe import Recipe, Step
from techniques.registry import all_techniques, get, register
from techniques.shapes import layer_macs
from tests.techniques.digits import (
    INPUT_SHAPE,
    accuracy,
    context,
    digits,
    outputs,
    same_state,
    shapes,
    state,
    trained,
    with_teacher,
)


@dataclass(frozen=True)
class Case:
    technique: str
    config: Mapping[str, Any]
    bad_config: Mapping[str, Any]
    named: str
    """What the error on the bad config must mention."""


CASES = (
    Case("structured_pruning", {"ratios": {"stem.0": 0.5, "blocks.1.conv1": 0.5}}, {"ratios": {"nowhere": 0.5}}, "nowhere"),
    Case("structured_pruning", {"ratios": {"blocks.2.conv1": 0.5}, "importance": "taylor"}, {"ratios": {"stem.0": 1.5}}, "stem.0"),
    Case("block_removal", {"blocks": ["blocks.0"]}, {"blocks": ["blocks.1"]}, "blocks.1"),
    Case("low_rank", {"ranks": {"blocks.2.conv2": [16, 16]}}, {"ranks": {"blocks.2.conv2": 64}}, "blocks.2.conv2"),
    Case("int8_quantization", {}, {"layers": ["stem.1"]}, "stem.1"),
    Case("input_resolution", {"height": 7, "width": 7}, {"height": 9, "width": 9}, "9x9"),
    Case("distillation", {"learning_rate": 0.02}, {"temperature": -1}, "temperature"),
)
TRANSFORMS = tuple(case for case in CASES if isinstance(get(case.technique), Transform))
TRAININGS = tuple(case for case in CASES if isinstance(get(case.technique), TrainingMethod))


def case_id(case: Case) -> str:
    return f"{case.technique}-{'-'.join(case.config) or 'default'}"


def apply(case: Case, network: Network) -> Network:
    technique = get(case.technique)
    assert isinstance(technique, Transform)
    return technique.apply(network, technique.parse_config(case.config), context())


MEASURES: Mapping[str, Callable[[Network], float]] = {
    "parameters": Network.parameter_count,
    "macs": lambda network: sum(layer_macs(network).values()),
    "layers": lambda network: len(network.layers()),
    "bits": lambda network: sum(t.numel() * t.element_size() for t in network.graph.state_dict().values()),
    "nonzeros": lambda network: sum(int(p.count_nonzero()) for p in network.graph.parameters()),
}


def test_every_technique_has_a_case() -> None:
    assert {case.technique for case in CASES} == {technique.name for technique in all_techniques()}


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        register(get("low_rank"))


@pytest.mark.parametrize("technique", all_techniques(), ids=lambda t: t.name)
def test_parameters_are_small_closed_ranges(technique: Any) -> None:
    declared = technique.parameters(trained(), context())
    assert 0 < len(declared) <= 4
    assert len({p.name for p in declared}) == len(declared)
    for parameter in declared:
        if isinstance(parameter, ChoiceParameter):
            assert parameter.default in parameter.choices
        else:
            assert parameter.low <= parameter.default <= parameter.high
            assert parameter.low < parameter.high


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_bad_configs_are_named(case: Case) -> None:
    technique = get(case.technique)
    with pytest.raises(ConfigError, match=case.named):
        validate_recipe(Recipe((Step(case.technique, case.bad_config),)), trained(), context())
    with pytest.raises(ConfigError, match="no_such_field"):
        technique.parse_config({**case.config, "no_such_field": 1})


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@pytest.mark.parametrize("technique", all_techniques(), ids=lambda t: t.name)
@given(data=st.data())
def test_whatever_json_a_config_is_it_is_taken_or_refused(technique: Any, data: st.DataObject) -> None:
    fields = {field.name: JSON for field in dataclasses.fields(technique.config_type)}
    with contextlib.suppress(ConfigError):
        technique.parse_config(data.draw(st.fixed_dictionaries({}, optional=fields)))


@pytest.mark.parametrize("case", TRANSFORMS, ids=case_id)
def test_a_transform_leaves_its_input_alone(case: Case) -> None:
    network, images = trained().clone(), digits()[1].images
    before, logits = state(network), outputs(network, images)
    apply(case, network)
    assert same_state(before, state(network))
    assert torch.equal(logits, outputs(network, images))


@pytest.mark.parametrize("case", TRANSFORMS, ids=case_id)
def test_a_transform_reduces_what_it_declares(case: Case) -> None:
    technique, smaller = get(case.technique), apply(case, trained())
    assert isinstance(technique, Transform)
    for measure in technique.reduces:
        assert MEASURES[measure](smaller) < MEASURES[measure](trained()), measure


@pytest.mark.parametrize("case", TRANSFORMS, ids=case_id)
def test_meta_and_real_structure_are_the_same(case: Case) -> None:
    meta = apply(case, trained().to_meta())
    assert meta.is_meta
    assert shapes(meta) == shapes(apply(case, trained()))


@pytest.mark.parametrize("case", TRANSFORMS, ids=case_id)
def test_a_transform_is_deterministic(case: Case) -> None:
    assert same_state(state(apply(case, trained())), state(apply(case, trained())))


@pytest.mark.parametrize("case", TRANSFORMS, ids=case_id)
def test_the_result_runs_at_any_batch_and_copies(case: Case) -> None:
    smaller = apply(case, trained())
    duplicate = copy.deepcopy(smaller)
    for batch in (1, 2, 7):
        images = torch.randn(batch, *INPUT_SHAPE)
        assert smaller(images).shape == (batch, 10)
        assert torch.equal(outputs(smaller, images), outputs(duplicate, images))


@pytest.mark.parametrize("case", TRANSFORMS, ids=case_id)
def test_the_result_is_still_far_above_chance(case: Case) -> None:
    recipe = Recipe((Step(case.technique, case.config),))
    assert accuracy(compress(trained(), recipe, context(), None, Effort((0,)))) > 0.5


def fit(case: Case, effort: Effort, checkpoint: Path | None = None, **changes: Any) -> Network:
    technique = get(case.technique)
    assert isinstance(technique, TrainingMethod)
    data = with_teacher(digits()[0])
    return technique.fit(trained(), data, effort, technique.parse_config(case.config), context(**changes), checkpoint)


@pytest.mark.parametrize("case", TRAININGS, ids=case_id)
def test_training_resumed_equals_training_at_one_go(case: Case, tmp_path: Path) -> None:
    effort, file = Effort((0, 3, 4), batch_size=32), tmp_path / "rungs.safetensors"
    whole = fit(case, effort)
    fit(case, effort.up_to(1), file)
    resumed = fit(case, effort, file)
    assert same_state(state(whole), state(resumed))
    assert shapes(whole) == shapes(trained())


@pytest.mark.parametrize("case", TRAININGS, ids=case_id)
def test_finished_rungs_are_not_repeated(case: Case, tmp_path: Path) -> None:
    effort, file = Effort((3,), batch_size=32), tmp_path / "rungs.safetensors"
    first = fit(case, effort, file)

    def never() -> bool:
        raise AssertionError("a step was trained again")

    assert same_state(state(first), state(fit(case, effort, file, interrupt=never)))


@pytest.mark.parametrize("case", TRAININGS, ids=case_id)
def test_training_stops_when_asked(case: Case, tmp_path: Path) -> None:
    answers = iter([False, False, True])
    with pytest.raises(InterruptedTrainingError, match="step 2 of 50"):
        fit(case, Effort((50,), batch_size=32), tmp_path / "rungs.safetensors", interrupt=lambda: next(answers))
    assert not (tmp_path / "rungs.safetensors").exists()


@pytest.mark.parametrize("case", TRAININGS, ids=case_id)
def test_divergence_is_said(case: Case) -> None:
    technique = get(case.technique)
    assert isinstance(technique, TrainingMethod)
    broken = trained().clone()
    with torch.no_grad():
        next(broken.graph.parameters()).fill_(float("nan"))
    with pytest.raises(TechniqueError, match="learning rate"):
        technique.fit(broken, digits()[0], Effort((2,), 32), technique.parse_config(case.config), context())
