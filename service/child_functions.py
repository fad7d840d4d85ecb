"""Run in a sandbox child, by name: what the server wants to know and only torch can tell. Never imported by the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hw_models.predictor import Predictor
from search.describe import describe
from techniques.apply import apply_recipe
from techniques.context import TechniqueContext
from techniques.errors import TechniqueError
from techniques.lift import from_pt2
from techniques.recipe import Recipe
from techniques.registry import all_techniques


def technique_names() -> dict[str, Any]:
    """Every registered technique."""
    return {"names": [technique.name for technique in all_techniques()]}


def describe_with_recipe(network_path: str, recipe_json: str, batch_size: int, predictor_json: str) -> dict[str, Any]:
    """Operator graph of a stored model, at a batch size, after a recipe; or the reason why the recipe cannot be applied."""
    network = from_pt2(Path(network_path)).to_meta()
    target = Predictor.from_json(predictor_json).target
    context = TechniqueContext(channel_multiple=target.channel_multiple, unsigned_activations=target.unsigned_activations)
    try:
        if recipe_json:
            network = apply_recipe(network, Recipe.from_json(recipe_json), context)
    except TechniqueError as error:
        return {"refused": str(error)}
    return {"graph": describe(network, batch_size).to_json()}
