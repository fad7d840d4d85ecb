"""What each single move costs in loss and saves in price, before anything is combined. Computed once, cached by content."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from search.attempts import Attempts
from search.errors import OptionSkippedError, TimeLimitError
from search.moves import Move, recipe_of
from search.pricing import Pricer
from search.space import Policy
from techniques.apply import compress
from techniques.base import Effort
from techniques.context import TechniqueContext
from techniques.head import training_logits
from techniques.network import Network
from techniques.recipe import Recipe
from techniques.training.losses import divergence

PRECISIONS = ("fp32", "int8")
LOSS_FACTOR = 60
"""A loss is measured on these images and twice as many calibration images; the time of one pass of the original, so many times, is
far more than that takes."""
MAX_HANGS = 2
"""A kind of move that hangs at so many places is not tried at others: each costs its whole time."""


@dataclass(frozen=True)
class Sensitivity:
    """Per move: the loss it adds and what it saves.

    Attributes:
        moves: only those that work on this network.
        loss: move id -> how far the outputs are from the original's without training (`techniques.training.losses.divergence`).
        saved: precision -> move id -> price name -> what the move alone saves (predicted, in the price's unit).
        skipped: move id, or technique, -> why it was left out.
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
    attempts: Attempts,
    precisions: Sequence[str] = PRECISIONS,
    time_limit_s: float = 120.0,
) -> Sensitivity:
    """Apply each move alone, recalibrate batch norm, and compare outputs on ``images`` with the original's.

    A move that this network refuses, raises at or hangs at is left out with the reason; so is a precision that it cannot take.
    When the time is up, moves not yet looked at take the median loss of those that were, and are named in ``skipped`` as estimated.

    Raises:
        SearchCancelledError: the search is to stop; seen within a second or two.
        OptionSkippedError: the network itself cannot be run or priced.
    """
    begin = time.monotonic()
    reference = attempts.attempt("outputs of the original", lambda: _logits(network, images, context), more_s=time_limit_s)
    look = _Look(network, reference, images, context, pricer, attempts, time.monotonic() - begin)
    found = look.at_precisions(precisions)
    last_call = begin + time_limit_s + max(time_limit_s, attempts.limit_s)
    look.at_moves(moves, begin + time_limit_s, last_call=min(last_call, attempts.ends_at))
    estimate = sorted(look.loss.values())[len(look.loss) // 2] if look.loss else 1.0
    loss = {move.move_id: look.loss.get(move.move_id, estimate) for move in look.usable}
    return Sensitivity(tuple(look.usable), loss, {precision: look.saved[precision] for precision in found}, look.skipped)


class _Look:
    """What has been found so far; one attempt for each precision and each move."""

    def __init__(
        self,
        network: Network,
        reference: Tensor,
        images: Tensor,
        context: TechniqueContext,
        pricer: Pricer,
        attempts: Attempts,
        reference_s: float,
    ) -> None:
        self._network, self._reference, self._images, self._context = network, reference, images, context
        self._pricer, self._attempts, self._meta = pricer, attempts, network.to_meta()
        self._loss_s = LOSS_FACTOR * reference_s
        self._originals: dict[str, Mapping[str, float]] = {}
        self._hangs: Counter[str] = Counter()
        self.usable: list[Move] = []
        self.loss: dict[str, float] = {}
        self.saved: dict[str, dict[str, dict[str, float]]] = {}
        self.skipped: dict[str, str] = {}

    def at_precisions(self, precisions: Sequence[str]) -> tuple[str, ...]:
        """The precisions that the original can be priced at; the first one is a must."""
        for precision in precisions:
            try:
                price = self._attempts.attempt(f"original at {precision}", partial(self._price, (), precision))
            except OptionSkippedError as error:
                if not self._originals:
                    raise
                self.skipped[f"{precision}_quantization"] = str(error)
            else:
                self._originals[precision], self.saved[precision] = price, {}
        return tuple(self._originals)

    def at_moves(self, moves: Sequence[Move], deadline: float, last_call: float) -> None:
        """Losses until ``deadline``, prices until ``last_call``."""
        for number, move in enumerate(moves, 1):
            self._attempts.show("sensitivity", f"{number} of {len(moves)}: {move.kind} {move.name}")
            if self._hangs[move.kind] >= MAX_HANGS:
                self.skipped[move.move_id] = (
                    f"not tried: {MAX_HANGS} others of its kind took more than {self._attempts.limit_s:.0f} s"
                )
            elif time.monotonic() > last_call:
                self.skipped[move.move_id] = "not tried: the time for sensitivity was up"
            else:
                self._try(move, with_loss=time.monotonic() < deadline)
        self._attempts.done()

    def _try(self, move: Move, with_loss: bool) -> None:
        name = move.move_id
        try:
            prices, loss = self._attempts.attempt(name, lambda: self._at(move, with_loss), self._loss_s if with_loss else 0.0)
        except OptionSkippedError as error:
            self._hangs[move.kind] += isinstance(error, TimeLimitError)
            self.skipped[name] = str(error)
            return
        for precision, price in prices.items():
            original = self._originals[precision]
            self.saved[precision][name] = {price_name: original[price_name] - value for price_name, value in price.items()}
        if loss is None:
            self.skipped[name] = "loss estimated: the time for sensitivity was up"
        else:
            self.loss[name] = loss
        self.usable.append(move)

    def _at(self, move: Move, with_loss: bool) -> tuple[dict[str, Mapping[str, float]], float | None]:
        prices = {precision: self._price((move,), precision) for precision in self._originals}
        if not with_loss:
            return prices, None
        return prices, _divergence(self._network, self._recipe((move,), "fp32"), self._reference, self._images, self._context)

    def _price(self, chosen: Sequence[Move], precision: str) -> Mapping[str, float]:
        return self._pricer.price(self._recipe(chosen, precision)).named()

    def _recipe(self, chosen: Sequence[Move], precision: str) -> Recipe:
        return recipe_of(chosen, Policy(precision=precision), self._meta, self._context, distil=False)


def _logits(network: Network, images: Tensor, context: TechniqueContext) -> Tensor:
    with torch.no_grad():
        return training_logits(network.eval(), context.task)(images)


def _divergence(network: Network, recipe: Recipe, reference: Tensor, images: Tensor, context: TechniqueContext) -> float:
    changed = compress(network, recipe, context, None, Effort((0,)), None)
    return divergence(_logits(changed, images, context), reference, context.task)
