"""From chosen options to a recipe: stage by stage, each technique's step made of its own options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search.pricing import Pricer
from search.space import Policy
from techniques import registry
from techniques.base import Technique, Transform
from techniques.context import TechniqueContext
from techniques.network import Network
from techniques.option import NETWORK, STAGES, Option
from techniques.recipe import Recipe, Step


@dataclass(frozen=True)
class Composition:
    """Makes recipes of one network.

    Attributes:
        begun: the original on the meta device after a recipe's steps: what later stages find. See `Pricer.begun`.
        pinned: options for the whole network by their ids, of which the policy names some.
        training: names of the techniques that train, see `Policy.training`. None: nothing is trained.
    """

    begun: Callable[[Recipe], Network]
    context: TechniqueContext
    pinned: Mapping[str, Option] = field(default_factory=dict)
    training: tuple[str, ...] = ()

    @staticmethod
    def of(pricer: Pricer, context: TechniqueContext, pinned: Iterable[Option], training: Sequence[str] = ()) -> Composition:
        """Of the pricer's network."""
        return Composition(pricer.begun, context, {option.option_id: option for option in pinned}, tuple(training))

    def recipe(self, options: Iterable[Option], policy: Policy) -> Recipe:
        """The recipe that does these options under a policy."""
        chosen = [*options, *(option for id_, option in self.pinned.items() if policy.pinned(option.axis) == id_)]
        by_technique: dict[str, list[Option]] = {}
        for option in chosen:
            by_technique.setdefault(option.technique, []).append(option)
        by_technique |= {name: [] for name in policy.training(self.training)}
        steps: list[Step] = []
        chosen_techniques = [one for one in registry.all_techniques() if one.name in by_technique]
        for technique in sorted(chosen_techniques, key=lambda one: STAGES.index(one.stage)):
            step = self._step(technique, by_technique[technique.name], policy, steps)
            if step is not None:
                steps.append(step)
        return Recipe(tuple(_spared(step, chosen) for step in steps))

    def _step(self, technique: Technique[Any], options: Sequence[Option], policy: Policy, before: Sequence[Step]) -> Step | None:
        network = self.begun(Recipe(tuple(before) if technique.reads_shapes else ()))
        return technique.step(network, options, policy.settings(technique.name), self.context)


def _spared(step: Step, chosen: Sequence[Option]) -> Step:
    """A step for the whole network leaves alone what another technique does to single places on its axis."""
    own = [option for option in chosen if option.technique == step.technique and option.place == NETWORK]
    others = [o for o in chosen if o.place != NETWORK and o.technique != step.technique and o.axis in {p.axis for p in own}]
    layers = sorted({layer for option in others for layer in option.layers})
    technique = registry.get(step.technique)
    if not layers or not isinstance(technique, Transform):
        return step
    return technique.sparing(step, layers) or step


def sparing(recipe: Recipe, layers: Sequence[str]) -> Recipe | None:
    """The recipe with these layers (qualified names) left as they are by the steps that can say so; None if nothing changes."""
    steps = []
    for step in recipe.steps:
        technique = registry.get(step.technique)
        steps.append((technique.sparing(step, layers) if isinstance(technique, Transform) else None) or step)
    return Recipe(tuple(steps)) if steps != list(recipe.steps) else None
