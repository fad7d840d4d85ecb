"""A recipe applied: structure alone (for pricing), or the whole way from the original to a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from techniques.base import Technique, TrainingMethod, Transform
from techniques.context import ImageSource, TechniqueContext
from techniques.effort import TrainingEffort
from techniques.errors import ConfigError, DataRequiredError
from techniques.network import Network
from techniques.recipe import Recipe, Step
from techniques.registry import get
from techniques.training.batchnorm import recalibrate
from techniques.training.loop import Training, fit
from techniques.training.parts import Regime


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


def trained_part(recipe: Recipe) -> Recipe:
    """The recipe without what belongs behind training: what is trained."""
    steps = []
    for index, step in enumerate(recipe.steps):
        technique = _technique(index, step)
        if not (isinstance(technique, Transform) and technique.after_training):
            steps.append(step)
    return Recipe(tuple(steps))


def structure_of(recipe: Recipe) -> str:
    """Digest of what a recipe makes of a network, however that is trained: recipes that agree in it give the same structure."""
    steps = (step for step in recipe.steps if not isinstance(get(step.technique), TrainingMethod))
    return Recipe(tuple(steps)).digest


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
    effort: TrainingEffort,
    checkpoint: Path | None = None,
) -> Network:
    """The candidate: transforms, batch norm recalibration, training for ``effort``, then what belongs behind training.

    Same network, recipe, seed, images and effort on one machine with fixed threads give bit-identical weights. ``checkpoint``
    is a file that training may resume from.

    Raises:
        ConfigError: see `validate_recipe`.
        DataRequiredError: a step needs images that are not there.
        InterruptedTrainingError: ``context.interrupt`` said so.
    """
    validate_recipe(recipe, network, context)
    result = network.clone().eval()
    stale, methods, later = False, [], regimes_of(recipe, context)
    for index, step in enumerate(recipe.steps):
        technique = _technique(index, step)
        if isinstance(technique, TrainingMethod):
            if any(effort.stages) and data is None:
                words = f"training for {sum(effort.stages)} steps needs images"
                raise DataRequiredError(f"step {index} ({step.technique}): {words}")
            methods.append((technique, _parse(index, step, technique)))
            continue
        assert isinstance(technique, Transform)  # there are no others
        if technique.after_training:
            result, stale, methods = _repaired(result, stale, methods, later, context, data, effort, checkpoint), False, []
        result = _transform(result, index, step, technique, context)
        stale |= not technique.after_training
    return _repaired(result, stale, methods, later, context, data, effort, checkpoint).eval()


def _repaired(
    network: Network,
    stale: bool,
    methods: Sequence[tuple[TrainingMethod[Any], Any]],
    later: Sequence[Regime],
    context: TechniqueContext,
    data: ImageSource | None,
    effort: TrainingEffort,
    checkpoint: Path | None,
) -> Network:
    """Batch norms recalibrated where their statistics are stale, then trained by all methods together."""
    if stale and context.calibration is not None:
        network = recalibrate(network, context.calibration)
    if not methods or not any(effort.stages) or data is None:
        return network
    return fit(network, data, effort, composed(methods, context, later), context, checkpoint)


def training_of(recipe: Recipe, context: TechniqueContext) -> Training:
    """The training that a recipe asks for.

    Raises:
        ConfigError: see `composed`.
    """
    methods = []
    for index, step in enumerate(recipe.steps):
        technique = _technique(index, step)
        if isinstance(technique, TrainingMethod):
            methods.append((technique, _parse(index, step, technique)))
    return composed(methods, context, regimes_of(recipe, context))


def regimes_of(recipe: Recipe, context: TechniqueContext) -> tuple[Regime, ...]:
    """What training does to get used to the transforms behind it."""
    regimes: list[Regime] = []
    for index, step in enumerate(recipe.steps):
        technique = _technique(index, step)
        if isinstance(technique, Transform) and technique.after_training:
            regimes += technique.regimes(_parse(index, step, technique), context)
    return tuple(regimes)


def composed(
    methods: Sequence[tuple[TrainingMethod[Any], Any]], context: TechniqueContext, later: Sequence[Regime] = ()
) -> Training:
    """One training of several methods, each with its parsed config.

    Args:
        later: of the transforms behind the training.

    Raises:
        ConfigError: none of them says what is minimised, or how steps are made.
    """
    losses = tuple(loss for technique, config in methods for loss in technique.losses(config, context))
    regimes = tuple(regime for technique, config in methods for regime in technique.regimes(config, context)) + tuple(later)
    optimizer = next((found for technique, config in methods if (found := technique.optimizer(config)) is not None), None)
    if not losses or optimizer is None:
        names = ", ".join(technique.name for technique, _ in methods)
        raise ConfigError(f"{names}: nothing says what training minimises and how; add a method that does, such as distillation")
    return Training(losses, regimes, optimizer)


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
    if step.version > technique.version:
        raise ConfigError(
            f"step {index} ({step.technique}): needs version {step.version} of the technique, this installation has "
            f"{technique.version}; use a newer Paretopress"
        )
    return technique


def _parse(index: int, step: Step, technique: Technique[Any]) -> Any:
    try:
        older = step.version < technique.version
        return technique.parse_config(technique.upgraded(step.config, step.version) if older else step.config)
    except ConfigError as error:
        raise _placed(error, index, step) from error


def _placed(error: ConfigError, index: int, step: Step) -> ConfigError:
    prefix = f"step {index} ({step.technique}): "
    return error if str(error).startswith("step ") else ConfigError(prefix + str(error).removeprefix(f"{step.technique}: "))
