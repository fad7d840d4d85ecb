"""What each single move costs in loss and saves in price, before anything is combined. Computed once, cached by content."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from search.errors import SearchCancelledError
from search.moves import Move, recipe_of
from search.pricing import Pricer
from search.space import Policy
from techniques.apply import compress
from techniques.base import Effort
from techniques.context import TechniqueContext
from techniques.errors import TechniqueError
from techniques.head import training_logits
from techniques.network import Network
from techniques.recipe import Recipe
from techniques.training.losses import divergence

PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Sensitivity:
    """Per move: the loss it adds and what it saves.

    Attributes:
        moves: only those that work on this network.
        loss: move id -> how far the outputs are from the original's without training (`techniques.training.losses.divergence`).
        saved: precision -> move id -> price name -> what the move alone saves (predicted, in the price's unit).
        skipped: move id -> why it was left out.
    """

    moves: tuple[Move, ...]
    loss: Mapping[str, float]
    saved: Mapping[str, Mapping[str, Mapping[str, float]]]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        moves = [[m.kind, m.name, m.strength, list(m.layers)] for m in self.moves]
        return json.loads(  # type: ignore[no-any-return]
            json.dumps({"version": 1, "moves": moves, "loss": dict(self.loss), "saved": self.saved, "skipped": dict(self.skipped)})
        )

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Sensitivity:
        """Read what `to_json` wrote."""
        moves = tuple(Move(kind, name, strength, tuple(layers)) for kind, name, strength, layers in data["moves"])
        return Sensitivity(moves, data["loss"], data["saved"], data["skipped"])


def measure_sensitivity(
    network: Network,
    moves: Sequence[Move],
    images: Tensor,
    context: TechniqueContext,
    pricer: Pricer,
    precisions: Sequence[str] = PRECISIONS,
    time_limit_s: float = 120.0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Sensitivity:
    """Apply each move alone, recalibrate batch norm, and compare outputs on ``images`` with the original's.

    A move that the network refuses is left out with the reason. When the time is up, moves not yet looked at take the
    median loss of those that were, and are named in ``skipped`` as estimated.

    Raises:
        SearchCancelledError: ``should_stop``, asked before every move, said so.
    """
    meta = network.to_meta()

    def recipe(chosen: Sequence[Move], precision: str) -> Recipe:
        return recipe_of(chosen, Policy(precision=precision), meta, context, distil=False)

    with torch.no_grad():
        reference = training_logits(network.eval(), context.task)(images)
    loss: dict[str, float] = {}
    saved: dict[str, dict[str, dict[str, float]]] = {precision: {} for precision in precisions}
    skipped: dict[str, str] = {}
    usable: list[Move] = []
    originals = {precision: pricer.price(recipe((), precision)).named() for precision in precisions}
    deadline = time.monotonic() + time_limit_s
    for move in moves:
        if should_stop():
            raise SearchCancelledError("cancelled while sensitivities were measured")
        try:
            for precision in precisions:
                price = pricer.price(recipe((move,), precision)).named()
                saved[precision][move.move_id] = {name: originals[precision][name] - value for name, value in price.items()}
            if time.monotonic() < deadline:
                loss[move.move_id] = _divergence(network, recipe((move,), "fp32"), reference, images, context)
            else:
                skipped[move.move_id] = "loss estimated: the time for sensitivity was up"
            usable.append(move)
        except TechniqueError as error:
            skipped[move.move_id] = str(error)
    estimate = sorted(loss.values())[len(loss) // 2] if loss else 1.0
    for move in usable:
        loss.setdefault(move.move_id, estimate)
    return Sensitivity(tuple(usable), loss, saved, skipped)


def _divergence(network: Network, recipe: Recipe, reference: Tensor, images: Tensor, context: TechniqueContext) -> float:
    changed = compress(network, recipe, context, None, Effort((0,)), None)
    with torch.no_grad():
        logits = training_logits(changed.eval(), context.task)(images)
    return divergence(logits, reference, context.task)
