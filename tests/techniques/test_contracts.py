"""The two contracts, run over every registered technique."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from techniques.apply import composed, compress, validate_recipe
from techniques.base import MAX_SETTINGS, Technique, TrainingMethod, Transform
from techniques.effort import TrainingEffort
from techniques.errors import ConfigError, InterruptedTrainingError, TechniqueError
from techniques.network import Network
from techniques.option import NETWORK, STAGES, Option
from techniques.parameters import ChoiceParameter, Parameter
from techniques.recipe import Recipe, Step
from techniques.registry import all_techniques, get, register
from techniques.shapes import layer_macs
from techniques.training.loop import fit
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
    """A step of a technique on the trained digits network."""

    technique: str
    what: str
    config: Mapping[str, Any]


def _ends(parameter: Parameter) -> tuple[Any, ...]:
    if isinstance(parameter, ChoiceParameter):
        return parameter.choices
    return parameter.low, parameter.high


def _cases(technique: Technique[Any]) -> list[Case]:
    """From what it offers: its mildest option and all of its strongest, with every setting at its ends."""
    network, known = trained(), context()
    chosen: dict[str, Sequence[Option]] = {"": ()}
    if isinstance(technique, Transform):
        options = technique.options(network, known)
        strongest = {option.slot: option for option in options}
        chosen = {"mildest": options[:1], "strongest": tuple(strongest.values())}
    settings = technique.settings()
    ends = [{setting.name: end} for setting in settings for end in _ends(setting)] or [{}]
    cases = []
    for which, some in chosen.items():
        for values in ends:
            step = technique.step(network.to_meta(), some, values, known)
            assert step is not None, f"{technique.name} makes no step of its {which} options"
            words = "-".join(f"{name}={value}" for name, value in values.items())
            cases.append(Case(technique.name, "-".join(filter(None, (which, words))), step.config))
    return cases


CASES = tuple(case for technique in all_techniques() for case in _cases(technique))
TRANSFORMS = tuple(case for case in CASES if isinstance(get(case.technique), Transform))
TRAININGS = tuple(case for case in CASES if isinstance(get(case.technique), TrainingMethod))


def case_id(case: Case) -> str:
    return f"{case.technique}-{case.what}"


@functools.cache
def small() -> Network:
    return trained().to_meta()


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


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        register(get("low_rank"))


@pytest.mark.parametrize("technique", all_techniques(), ids=lambda t: t.name)
def test_a_technique_says_what_it_is(technique: Technique[Any]) -> None:
    assert technique.stage in STAGES
    assert technique.cites
    assert technique.supports(trained(), context()) == ""
    settings = technique.settings()
    assert len({p.name for p in settings}) == len(settings) <= MAX_SETTINGS
    for parameter in settings:
        if isinstance(parameter, ChoiceParameter):
            assert parameter.default in parameter.choices
        else:
            assert parameter.low <= parameter.default <= parameter.high
            assert parameter.low < parameter.high


@pytest.mark.parametrize("technique", [t for t in all_techniques() if isinstance(t, Transform)], ids=lambda t: t.name)
def test_options_are_its_own_and_grow_at_each_place(technique: Transform[Any]) -> None:
    layers, options = set(trained().layers()), technique.options(trained(), context())
    assert len({option.option_id for option in options}) == len(options) > 0
    assert {(option.technique, option.axis) for option in options} == {(technique.name, technique.axis)}
    assert all(option.layers and set(option.layers) <= layers for option in options)
    by_slot: dict[Any, list[Option]] = {}
    for option in options:
        by_slot.setdefault(option.slot, []).append(option)
        assert Option.from_json(json.loads(json.dumps(option.to_json()))) == option
    for some in by_slot.values():
        assert [option.level for option in some] == list(range(len(some)))
        assert sorted({option.strength for option in some}) == [option.strength for option in some]


@pytest.mark.parametrize("technique", [t for t in all_techniques() if isinstance(t, Transform)], ids=lambda t: t.name)
def test_nothing_is_offered_outside_the_scopes(technique: Transform[Any]) -> None:
    local = [o for o in technique.options(trained(), context(scopes=("blocks.2.*",))) if o.place != NETWORK]
    assert all(layer.startswith("blocks.2.") for option in local for layer in option.layers)


def _renamed(value: Any) -> Any:
    """The same config for a network with other names."""
    if isinstance(value, Mapping):
        return {f"nowhere.{key}": inner for key, inner in value.items()}
    return [f"nowhere.{one}" for one in value] if isinstance(value, list) and value and isinstance(value[0], str) else value


def _elsewhere(case: Case) -> dict[str, Any]:
    return {name: _renamed(value) for name, value in case.config.items()}


@pytest.mark.parametrize("case", [case for case in TRANSFORMS if _elsewhere(case) != case.config], ids=case_id)
def test_places_that_are_not_there_are_named(case: Case) -> None:
    config = _elsewhere(case)
    with pytest.raises(ConfigError, match="nowhere"):
        validate_recipe(Recipe((Step(case.technique, config),)), trained(), context())


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_unknown_fields_are_named(case: Case) -> None:
    with pytest.raises(ConfigError, match="no_such_field"):
        get(case.technique).parse_config({**case.config, "no_such_field": 1})


@pytest.mark.parametrize("technique", all_techniques(), ids=lambda t: t.name)
def test_a_recipe_of_another_version_says_what_it_needs(technique: Technique[Any]) -> None:
    case = next(case for case in CASES if case.technique == technique.name)
    newer = Recipe((Step(technique.name, case.config, technique.version + 1),))
    with pytest.raises(ConfigError, match="newer Paretopress"):
        validate_recipe(newer, trained(), context())


def test_a_recipe_of_an_older_version_is_read_as_this_one_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    technique = get("block_removal")
    old = Recipe((Step("block_removal", {"names": ["blocks.0"]}, 1),))
    monkeypatch.setattr(type(technique), "version", 2)
    with pytest.raises(ConfigError, match="version 1 of it cannot be read by version 2"):
        validate_recipe(old, trained(), context())
    monkeypatch.setattr(type(technique), "upgraded", lambda self, config, version: {"blocks": config["names"]})
    validate_recipe(old, trained(), context())
    assert technique.make_step({}).version == 2


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@pytest.mark.parametrize("technique", all_techniques(), ids=lambda t: t.name)
@given(data=st.data())
def test_whatever_json_a_config_is_it_is_taken_or_refused(technique: Technique[Any], data: st.DataObject) -> None:
    fields = {field.name: JSON for field in dataclasses.fields(technique.config_type)}
    config = data.draw(st.fixed_dictionaries({}, optional=fields))
    with contextlib.suppress(ConfigError):
        technique.parse_config(config)
        validate_recipe(Recipe((Step(technique.name, config, technique.version),)), small(), context())


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


@pytest.mark.parametrize("case", [case for case in TRANSFORMS if case.what.startswith("mildest")], ids=case_id)
def test_the_mildest_option_leaves_it_far_above_chance(case: Case) -> None:
    recipe = Recipe((Step(case.technique, case.config),))
    assert accuracy(compress(trained(), recipe, context(), None, TrainingEffort((0,)))) > 0.5


def fitted(case: Case, effort: TrainingEffort, checkpoint: Path | None = None, **changes: Any) -> Network:
    technique, known = get(case.technique), context(**changes)
    assert isinstance(technique, TrainingMethod)
    training = composed([(technique, technique.parse_config(case.config))], known)
    return fit(trained(), with_teacher(digits()[0]), effort, training, known, checkpoint)


@pytest.mark.parametrize("case", TRAININGS, ids=case_id)
def test_training_resumed_equals_training_at_one_go(case: Case, tmp_path: Path) -> None:
    effort, file = TrainingEffort((0, 3, 4), batch_size=32, last_steps=3), tmp_path / "rungs.safetensors"
    whole = fitted(case, effort)
    fitted(case, effort.up_to(1), file)
    resumed = fitted(case, effort, file)
    assert same_state(state(whole), state(resumed))
    assert shapes(whole) == shapes(trained())


@pytest.mark.parametrize("case", TRAININGS, ids=case_id)
def test_finished_rungs_are_not_repeated(case: Case, tmp_path: Path) -> None:
    effort, file = TrainingEffort((3,), batch_size=32), tmp_path / "rungs.safetensors"
    first = fitted(case, effort, file)

    def never() -> bool:
        raise AssertionError("a step was trained again")

    assert same_state(state(first), state(fitted(case, effort, file, interrupt=never)))


@pytest.mark.parametrize("case", TRAININGS, ids=case_id)
def test_training_stops_when_asked(case: Case, tmp_path: Path) -> None:
    answers = iter([False, False, True])
    with pytest.raises(InterruptedTrainingError, match="step 2 of 50"):
        fitted(case, TrainingEffort((50,), batch_size=32), tmp_path / "rungs.safetensors", interrupt=lambda: next(answers))
    assert not (tmp_path / "rungs.safetensors").exists()


@pytest.mark.parametrize("case", TRAININGS, ids=case_id)
def test_divergence_is_said(case: Case) -> None:
    technique, known = get(case.technique), context()
    assert isinstance(technique, TrainingMethod)
    broken = trained().clone()
    with torch.no_grad():
        next(broken.graph.parameters()).fill_(float("nan"))
    training = composed([(technique, technique.parse_config(case.config))], known)
    with pytest.raises(TechniqueError, match="learning rate"):
        fit(broken, digits()[0], TrainingEffort((2,), 32), training, known)
