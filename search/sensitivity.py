"""What each single option costs in loss and saves in price, before anything is combined. Computed once, cached by content."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from search.attempts import Attempts
from search.composition import Composition
from search.errors import OptionSkippedError, TimeLimitError
from search.options import Offered
from search.pricing import Pricer
from search.space import NONE, Policy
from techniques.apply import compress
from techniques.context import TechniqueContext
from techniques.effort import TrainingEffort
from techniques.head import training_logits
from techniques.network import Network
from techniques.option import Axis, Option
from techniques.recipe import Recipe
from techniques.training.losses import divergence

VERSION = 3
LOSS_FACTOR = 60
"""A loss is measured on these images and twice as many calibration images; the time of one pass of the original, so many times, is
far more than that takes."""
_UNKNOWN_LOSS = 1.0
MAX_HANGS = 2
"""A technique that hangs at so many places is not tried at others: each costs its whole time."""


@dataclass(frozen=True)
class Sensitivity:
    """Per option: the loss it adds and what it saves.

    Attributes:
        options: only those at places, and only those that work on this network.
        loss: option id -> how far the outputs are from the original's without training (`techniques.training.losses.divergence`).
        saved: what takes the whole network on the axis ``bits`` (an option's id, or ``none``) -> option id -> price name -> what
            the option alone saves (predicted, in the price's unit).
        skipped: option id, or technique, -> why it was left out.
        pinned: options that take the whole network, of those that it can be priced with.
        whole: id of such an option -> price name -> what it alone saves.
    """

    options: tuple[Option, ...]
    loss: Mapping[str, float]
    saved: Mapping[str, Mapping[str, Mapping[str, float]]]
    skipped: Mapping[str, str] = field(default_factory=dict)
    pinned: tuple[Option, ...] = ()
    whole: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def offered(self) -> Offered:
        """All options that can be used."""
        return Offered((*self.options, *self.pinned), self.skipped)

    def in_formats(self, original: Mapping[str, float]) -> dict[str, float]:
        """Price name -> the lowest of the whole network in another format, with nothing else done to it.

        Args:
            original: what it costs as it is.
        """
        saved = [self.whole[bits] for bits in self.saved if bits in self.whole]
        return {name: value - max((one.get(name, 0.0) for one in saved), default=0.0) for name, value in original.items()}

    def savings(self, name: str = "latency_ms", technique: str = "") -> dict[Axis, float]:
        """By axis: what the best options at its places (of one technique, or of all) save together, were there nothing else."""
        most: dict[tuple[Axis, str], float] = {}
        for option in (one for one in self.options if technique in ("", one.technique)):
            saved = max((by_id[option.option_id].get(name, 0.0) for by_id in self.saved.values()), default=0.0)
            most[option.slot] = max(saved, most.get(option.slot, 0.0))
        total: dict[Axis, float] = {}
        for (axis, _), saved in most.items():
            total[axis] = total.get(axis, 0.0) + saved
        return total

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        options = {"options": [one.to_json() for one in self.options], "pinned": [one.to_json() for one in self.pinned]}
        found = {"loss": self.loss, "saved": self.saved, "skipped": self.skipped, "whole": self.whole}
        return json.loads(json.dumps({"version": VERSION, **options, **found}, default=dict))  # type: ignore[no-any-return]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Sensitivity:
        """Read what `to_json` wrote.

        Raises:
            ValueError: an earlier version wrote it; it is measured again.
        """
        if data["version"] != VERSION:
            raise ValueError(f"sensitivities of version {data['version']} are not read by version {VERSION}")
        options, pinned = (tuple(Option.from_json(one) for one in data[name]) for name in ("options", "pinned"))
        return Sensitivity(options, data["loss"], data["saved"], data["skipped"], pinned, data["whole"])


def measure_sensitivity(
    network: Network,
    offered: Offered,
    images: Tensor,
    context: TechniqueContext,
    pricer: Pricer,
    attempts: Attempts,
    time_limit_s: float = 120.0,
) -> Sensitivity:
    """Apply each option alone, recalibrate batch norm, and compare outputs on ``images`` with the original's.

    An option that this network refuses, raises at or hangs at is left out with the reason; so is a format that it cannot take.
    Techniques take turns, the mildest options first, so that the time for it measures something of each; options not yet looked at
    when it is up take a loss that follows from those that were (`estimated_loss`), and are named in ``skipped``.

    Raises:
        SearchCancelledError: the search is to stop; seen within a second or two.
        OptionSkippedError: the network itself cannot be run or priced.
    """
    begin = time.monotonic()
    reference = attempts.attempt("outputs of the original", lambda: _logits(network, images, context), more_s=time_limit_s)
    look = _Look(network, reference, images, context, pricer, attempts, offered, time.monotonic() - begin)
    look.at_formats()
    last_call = begin + time_limit_s + max(time_limit_s, attempts.limit_s)
    look.at_places(begin + time_limit_s, last_call=min(last_call, attempts.ends_at))
    usable = tuple(option for option in offered.local if option.option_id in look.usable)
    measured = {option: look.loss[option.option_id] for option in usable if option.option_id in look.loss}
    loss = {option.option_id: estimated_loss(option, measured) for option in usable}
    pinned = tuple(option for option in offered.pinned if option.option_id not in look.skipped)
    return Sensitivity(usable, loss, look.saved, {**offered.skipped, **look.skipped}, pinned, look.whole)


def in_turns(options: Sequence[Option]) -> list[Option]:
    """One option of each technique after the other, at each technique the mildest of all places first."""
    by_technique: dict[str, list[Option]] = {}
    for option in sorted(options, key=lambda one: one.level):
        by_technique.setdefault(option.technique, []).append(option)
    turns = zip_longest(*by_technique.values())
    return [option for turn in turns for option in turn if option is not None]


def estimated_loss(option: Option, measured: Mapping[Option, float]) -> float:
    """The loss of an option: as measured, or as it follows from what was measured, never lower than is likely.

    From a milder option of the technique at the same place it grows with the square of the strength; a stronger one there is an
    upper end. Otherwise the upper quartile of the technique's other places counts, at this strength; without any, that of all.
    """
    if option in measured:
        return measured[option]
    mine = {one: loss for one, loss in measured.items() if one.technique == option.technique}
    here = {one: loss for one, loss in mine.items() if one.place == option.place}
    milder = [loss * (option.strength / one.strength) ** 2 for one, loss in here.items() if one.strength < option.strength]
    stronger = [loss for one, loss in here.items() if one.strength > option.strength]
    if milder or stronger:
        return min([*stronger, *([max(milder)] if milder else [])])
    likely = sorted(loss * (option.strength / one.strength) ** 2 for one, loss in (mine or measured).items())
    return likely[3 * len(likely) // 4] if likely else _UNKNOWN_LOSS


class _Look:
    """What has been found so far; one attempt for each format and each option."""

    def __init__(
        self,
        network: Network,
        reference: Tensor,
        images: Tensor,
        context: TechniqueContext,
        pricer: Pricer,
        attempts: Attempts,
        offered: Offered,
        reference_s: float,
    ) -> None:
        self._network, self._reference, self._images, self._context = network, reference, images, context
        self._pricer, self._attempts, self._offered = pricer, attempts, offered
        self._composition = Composition.of(pricer, context, offered.pinned)
        self._loss_s = LOSS_FACTOR * reference_s
        self._originals: dict[str, Mapping[str, float]] = {}
        self._hangs: Counter[str] = Counter()
        self.usable: set[str] = set()
        self.loss: dict[str, float] = {}
        self.saved: dict[str, dict[str, dict[str, float]]] = {}
        self.skipped: dict[str, str] = {}
        self.whole: dict[str, dict[str, float]] = {}

    def at_formats(self) -> None:
        """What the network costs in every format that takes the whole of it; as it is, it must have a price."""
        self._originals[NONE] = self._attempts.attempt("original as it is", partial(self._price, (), NONE))
        original = self._originals[NONE]
        for option in self._offered.pinned:
            policy = Policy({option.axis: option.option_id})
            try:
                price = self._attempts.attempt(f"original as {option.option_id}", partial(self._priced, (), policy))
            except OptionSkippedError as error:
                self.skipped[option.option_id] = str(error)
                continue
            self.whole[option.option_id] = {name: original[name] - value for name, value in price.items()}
            if option.axis == "bits":
                self._originals[option.option_id] = price
        self.saved = {bits: {} for bits in self._originals}

    def at_places(self, deadline: float, last_call: float) -> None:
        """Losses until ``deadline``, prices until ``last_call``."""
        options = in_turns(self._offered.local)
        for number, option in enumerate(options, 1):
            self._attempts.show("sensitivity", f"{number} of {len(options)}: {option.technique} at {option.place}")
            if self._hangs[option.technique] >= MAX_HANGS:
                self.skipped[option.option_id] = (
                    f"not tried: {MAX_HANGS} others of its technique took more than {self._attempts.limit_s:.0f} s"
                )
            elif time.monotonic() > last_call:
                self.skipped[option.option_id] = "not tried: the time for sensitivity was up"
            else:
                self._try(option, with_loss=time.monotonic() < deadline)
        self._attempts.done()

    def _try(self, option: Option, with_loss: bool) -> None:
        name = option.option_id
        try:
            prices, loss = self._attempts.attempt(name, lambda: self._at(option, with_loss), self._loss_s if with_loss else 0.0)
        except OptionSkippedError as error:
            self._hangs[option.technique] += isinstance(error, TimeLimitError)
            self.skipped[name] = str(error)
            return
        for bits, price in prices.items():
            original = self._originals[bits]
            self.saved[bits][name] = {price_name: original[price_name] - value for price_name, value in price.items()}
        if loss is None:
            self.skipped[name] = "loss estimated: the time for sensitivity was up"
        else:
            self.loss[name] = loss
        self.usable.add(name)

    def _at(self, option: Option, with_loss: bool) -> tuple[dict[str, Mapping[str, float]], float | None]:
        prices = {bits: self._price((option,), bits) for bits in self._originals}
        if not with_loss:
            return prices, None
        return prices, _divergence(self._network, self._recipe((option,), NONE), self._reference, self._images, self._context)

    def _price(self, chosen: Sequence[Option], bits: str) -> Mapping[str, float]:
        return self._priced(chosen, Policy({"bits": bits}))

    def _priced(self, chosen: Sequence[Option], policy: Policy) -> Mapping[str, float]:
        return self._pricer.price(self._composition.recipe(chosen, policy)).named()

    def _recipe(self, chosen: Sequence[Option], bits: str) -> Recipe:
        return self._composition.recipe(chosen, Policy({"bits": bits}))


def _logits(network: Network, images: Tensor, context: TechniqueContext) -> Tensor:
    with torch.no_grad():
        return training_logits(network.eval(), context.task)(images)


def _divergence(network: Network, recipe: Recipe, reference: Tensor, images: Tensor, context: TechniqueContext) -> float:
    changed = compress(network, recipe, context, None, TrainingEffort((0,)), None)
    return divergence(_logits(changed, images, context), reference, context.task)
