"""Run in a sandbox child, by name: what the server wants to know and only torch can tell. Never imported by the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.describe import describe
from techniques.apply import apply_recipe
from techniques.base import Technique, TrainingMethod, Transform
from techniques.context import TechniqueContext
from techniques.errors import TechniqueError
from techniques.facts import TargetFacts
from techniques.lift import from_pt2
from techniques.option import STAGES
from techniques.parameters import ChoiceParameter, Parameter
from techniques.recipe import Recipe
from techniques.registry import all_techniques


def describe_techniques() -> dict[str, Any]:
    """Every registered technique in the order of recipes: the fields of `service.techniques.KnownTechnique`."""
    ordered = sorted(all_techniques(), key=lambda technique: STAGES.index(technique.stage))
    return {"techniques": [_described(technique) for technique in ordered]}


def _described(technique: Technique[Any]) -> dict[str, Any]:
    takes = {"axis": technique.axis, "reduces": sorted(technique.reduces)} if isinstance(technique, Transform) else {}
    return {
        "name": technique.name,
        "version": technique.version,
        "stage": technique.stage,
        "cites": technique.cites,
        "not_supported_on": technique.not_supported_on,
        "trains": isinstance(technique, TrainingMethod) and technique.states_optimizer,
        "settings": [_setting(parameter) for parameter in technique.settings()],
        **takes,
    }


def _setting(parameter: Parameter) -> dict[str, Any]:
    default = str(parameter.default)
    if isinstance(parameter, ChoiceParameter):
        return {"name": parameter.name, "choices": [str(choice) for choice in parameter.choices], "default": default}
    return {"name": parameter.name, "low": float(parameter.low), "high": float(parameter.high), "default": default}


def describe_with_recipe(
    network_path: str, recipe_json: str, batch_size: int, facts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Operator graphs of a stored model, at a batch size, after a recipe; or the reason why the recipe cannot be applied.

    Args:
        facts: `TargetFacts` of targets as JSON; one graph each.
    """
    original = from_pt2(Path(network_path)).to_meta()
    graphs = []
    try:
        for known in facts:
            network = original
            if recipe_json:
                network = apply_recipe(original, Recipe.from_json(recipe_json), TechniqueContext.of(TargetFacts.from_json(known)))
            graphs.append(describe(network, batch_size).to_json())
    except TechniqueError as error:
        return {"refused": str(error)}
    return {"graphs": graphs}
