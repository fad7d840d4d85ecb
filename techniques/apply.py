"""A recipe applied: structure alone (for pricing), or the whole way from the original to a candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from techniques.base import Effort, Technique, TrainingMethod, Transform
from techniques.context import ImageSource, TechniqueContext
from techniques.errors import ConfigError, DataRequiredError
from techniques.network import Network
from techniques.recipe import Recipe, Step
from techniques.registry import get
from techniques.training.batchnorm import recalibrate


def apply_recipe(network: Network, recipe: Recipe, context: TechniqueContext) -> Network:
    """Apply every `Transform` in order, without any training: what a recipe is priced on (meta networks: milliseconds).

    Raises:
        ConfigError: a step that is unknown or does not fit; the message starts with its position.
        DataRequiredError: real weights need calibration images and the context has none.
    """
    result = network
    for index, step in enumerate(recipe.steps):
        result = apply_step(result, index, step, context)
    return (network.clone() if result is network else result).eval()


def apply_step(network: Network, index: int, step: Step, context: TechniqueContext) -> Network:
    """One step of a recipe, as `apply_recipe` does it: the network itself where the step is training."""
    technique = _technique(index, step)
    return _transform(network, index, step, technique, context) if isinstance(technique, Transform) else network


def validate_recipe(recipe: Recipe, network: Network, context: TechniqueContext | None = None) -> None:
    """Check names, versions, configs and order, then try the transforms on a meta copy of the network.

    Order: transforms, then training, then what belongs behind training. A step whose structure needs real weights (low rank
    by energy) ends the trial there.

    Raises:
        ConfigError: what is wrong, starting with the step's position.
    """
    trained = finished = False
    for index, step in enumerate(recipe.steps):
        technique = _technique(index, step)
        _parse(index, step, technique)
        late = isinstance(technique, Transform) and technique.after_training
        if finished and not late:
            raise ConfigError(f"step {index} ({step.technique}): must stand before the steps that belong behind training")
        if trained and isinstance(technique, Transform) and not late:
            raise ConfigError(
                f"step {index} ({step.technique}): a transform that training should repair must stand before training"
            )
        trained |= isinstance(technique, TrainingMethod)
        finished |= late
    meta = network if network.is_meta else network.to_meta()
    try:
        apply_recipe(meta, recipe, context or TechniqueContext())
    except DataRequiredError:
        return


def compress(
    network: Network,
    recipe: Recipe,
    context: TechniqueContext,
    data: ImageSource | None,
    effort: Effort,
    checkpoint: Path | None = None,
) -> Network:
    """The candidate: transforms, batch norm recalibration, training for ``effort``, then what belongs behind training.

    Same network, recipe, seed, images and effort on one machine with fixed threads give bit-identical weights. ``checkpoint``
    is a file that training may resume from; a recipe with several training steps gets one file for each.

    Raises:
        ConfigError: see `validate_recipe`.
        DataRequiredError: a step needs images that are not there.
        InterruptedTrainingError: ``context.interrupt`` said so.
    """
    validate_recipe(recipe, network, context)
    result = network.clone().eval()
    stale = False
    for index, step in enumerate(recipe.steps):
        technique = _technique(index, step)
        if isinstance(technique, Transform) and not technique.after_training:
            result = _transform(result, index, step, technique, context)
            stale = True
            continue
        if stale and context.calibration is not None:
            result = recalibrate(result, context.calibration)
        stale = False
        if isinstance(technique, Transform):
            result = _transform(result, index, step, technique, context)
        elif isinstance(technique, TrainingMethod) and any(effort.rung_steps):
            result = _train(result, index, step, technique, context, data, effort, checkpoint)
    if stale and context.calibration is not None:
        result = recalibrate(result, context.calibration)
    return result.eval()


def _train(
    network: Network,
    index: int,
    step: Step,
    technique: TrainingMethod[Any],
    context: TechniqueContext,
    data: ImageSource | None,
    effort: Effort,
    checkpoint: Path | None,
) -> Network:
    if data is None:
        raise DataRequiredError(f"step {index} ({step.technique}): training for {sum(effort.rung_steps)} steps needs images")
    own = checkpoint.with_name(f"{checkpoint.stem}.step{index}{checkpoint.suffix}") if checkpoint is not None else None
    return technique.fit(network, data, effort, _parse(index, step, technique), context, own)


def _transform(network: Network, index: int, step: Step, technique: Transform[Any], context: TechniqueContext) -> Network:
    try:
        return technique.apply(network, _parse(index, step, technique), context)
    except ConfigError as error:
        raise _placed(error, index, step) from error


def _technique(index: int, step: Step) -> Technique[Any]:
    try:
        technique = get(step.technique)
    except ConfigError as error:
        raise _placed(error, index, step) from error
    if step.version != technique.version:
        raise ConfigError(
            f"step {index} ({step.technique}): version {step.version} is asked for, this installation has {technique.version}"
        )
    return technique


def _parse(index: int, step: Step, technique: Technique[Any]) -> Any:
    try:
        return technique.parse_config(step.config)
    except ConfigError as error:
        raise _placed(error, index, step) from error


def _placed(error: ConfigError, index: int, step: Step) -> ConfigError:
    prefix = f"step {index} ({step.technique}): "
    return error if str(error).startswith("step ") else ConfigError(prefix + str(error).removeprefix(f"{step.technique}: "))
