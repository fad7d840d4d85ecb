from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from techniques.apply import apply_recipe, compress, structure_of, validate_recipe
from techniques.context import TechniqueContext
from techniques.effort import TrainingEffort
from techniques.errors import ConfigError, DataRequiredError
from techniques.recipe import Recipe, Step
from tests.techniques.digits import accuracy, context, digits, same_state, shapes, state, trained, with_teacher

PRUNE = Step("structured_pruning", {"ratios": {"blocks.1.conv2": 0.5, "blocks.2.conv1": 0.5}})
REMOVE = Step("block_removal", {"blocks": ["blocks.0"]})
FACTOR = Step("low_rank", {"ranks": {"blocks.2.conv2": [16, 16]}})
TRAIN = Step("distillation", {"learning_rate": 0.05})
QUANTISE = Step("int8_quantization", {})
RESIZE = Step("input_resolution", {"height": 7, "width": 7})
FULL = Recipe((RESIZE, REMOVE, PRUNE, FACTOR, TRAIN, QUANTISE))
EFFORT = TrainingEffort((0, 10, 10), batch_size=64)


def test_the_whole_way_gives_the_structure_that_was_priced_and_most_of_the_accuracy() -> None:
    priced = apply_recipe(trained().to_meta(), FULL, context())
    candidate = compress(trained(), FULL, context(), with_teacher(digits()[0]), EFFORT)
    assert shapes(candidate) == shapes(priced)
    assert candidate.parameter_count() == priced.parameter_count() < 0.6 * trained().parameter_count()
    assert accuracy(candidate) > accuracy(trained()) - 0.06


def test_replay_is_bit_identical_resumed_or_not(tmp_path: Path) -> None:
    data, file = with_teacher(digits()[0]), tmp_path / "c0001.safetensors"
    effort = TrainingEffort((0, 4, 4), batch_size=32)
    first = compress(trained(), FULL, context(), data, effort.up_to(1), file)
    again = compress(trained(), FULL, context(), data, effort.up_to(1))
    assert same_state(state(first), state(again))
    resumed = compress(trained(), FULL, context(), data, effort, file)
    whole = compress(trained(), FULL, context(), data, effort)
    assert same_state(state(resumed), state(whole))


def test_rung_0_trains_nothing_and_recalibrates() -> None:
    recipe = Recipe((PRUNE, TRAIN))
    candidate = compress(trained(), recipe, context(), None, EFFORT.up_to(0))
    assert accuracy(candidate) > accuracy(apply_recipe(trained(), recipe, context())) - 0.02
    assert same_state(state(candidate), state(compress(trained(), Recipe((PRUNE,)), context(), None, TrainingEffort((0,)))))


def test_the_empty_recipe_is_the_original() -> None:
    assert same_state(state(compress(trained(), Recipe(), context(), None, TrainingEffort((0,)))), state(trained()))


def test_training_without_images_says_which_step() -> None:
    with pytest.raises(DataRequiredError, match="step 0"):
        compress(trained(), Recipe((TRAIN,)), context(), None, EFFORT)


@dataclass(frozen=True)
class Wrong:
    label: str
    recipe: Recipe
    match: str


@pytest.mark.parametrize(
    "case",
    [
        Wrong("unknown technique", Recipe((Step("magic"),)), r"step 0 \(magic\).*unknown technique"),
        Wrong("other version", Recipe((Step("block_removal", {}, 9),)), r"step 0 .*version 9"),
        Wrong("unknown field", Recipe((REMOVE, Step("low_rank", {"rank": 3}))), r"step 1 \(low_rank\).*rank"),
        Wrong("pruned after training", Recipe((TRAIN, PRUNE)), "step 1 .*before training"),
        Wrong("trained after int8", Recipe((QUANTISE, TRAIN)), "step 1 .*behind training"),
        Wrong("block is gone", Recipe((REMOVE, REMOVE)), "step 1 .*blocks.0"),
    ],
    ids=lambda c: c.label,
)
def test_wrong_recipes_are_refused_before_any_work(case: Wrong) -> None:
    with pytest.raises(ConfigError, match=case.match):
        validate_recipe(case.recipe, trained(), context())
    with pytest.raises(ConfigError, match=case.match):
        compress(trained(), case.recipe, context(), None, EFFORT)


def test_a_recipe_by_energy_is_valid_though_it_cannot_be_priced() -> None:
    recipe = Recipe((Step("low_rank", {"energies": {"blocks.2.conv2": 0.5}}), QUANTISE))
    validate_recipe(recipe, trained(), TechniqueContext())
    with pytest.raises(DataRequiredError):
        apply_recipe(trained().to_meta(), recipe, context())


def test_recipes_that_differ_in_training_alone_are_one_structure() -> None:
    other = Step("distillation", {"temperature": 2.0})
    assert structure_of(Recipe((PRUNE, TRAIN, QUANTISE))) == structure_of(Recipe((PRUNE, other, QUANTISE)))
    assert structure_of(Recipe((PRUNE, TRAIN))) == structure_of(Recipe((PRUNE,))) != structure_of(Recipe((REMOVE, TRAIN)))
