"""Run in a sandbox child, by name: what the server wants to know and only torch can tell. Never imported by the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def describe_with_recipe(
    network_path: str, recipe_json: str, batch_size: int, preferences: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Operator graphs of a stored model, at a batch size, after a recipe; or the reason why the recipe cannot be applied.

    Args:
        preferences: fields of `TechniqueContext` that a target decides; one graph each.
    """
    original = from_pt2(Path(network_path)).to_meta()
    graphs = []
    try:
        for wanted in preferences:
            network = original
            if recipe_json:
                network = apply_recipe(original, Recipe.from_json(recipe_json), TechniqueContext(**wanted))
            graphs.append(describe(network, batch_size).to_json())
    except TechniqueError as error:
        return {"refused": str(error)}
    return {"graphs": graphs}
