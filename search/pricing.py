"""What a recipe would cost, before anything is built: it is applied to shapes alone, described, counted and predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hw_models.predictor import Prediction, Predictor
from search.describe import describe
from search.protocols import Measurement
from search.runtimes import runtime_of
from techniques import registry
from techniques.apply import apply_recipe, apply_step
from techniques.base import TrainingMethod, Transform
from techniques.context import TechniqueContext
from techniques.errors import DataRequiredError
from techniques.export import weight_size_bytes
from techniques.network import Network
from techniques.recipe import Recipe, Step

MAX_BEGUN = 256
"""Meta networks after the first steps of recipes that are kept; each takes some tenths of a megabyte."""


@dataclass(frozen=True)
class Price:
    """Costs of one network. Latency is predicted and the file size estimated, the rest is counted.

    Attributes:
        latency: milliseconds at the search's batch size; ``spread`` is half the width of the 90% interval.
        latency_low_ms, latency_high_ms: the interval's ends.
        macs: of one image.
        weight_size_bytes: `techniques.export.weight_size_bytes`.
        file_size_bytes: estimate of the file that the target runs; budgets know it as ``size_name``.
        unknown_kernels: kernels priced without ever having been measured on the target.
    """

    latency: Measurement
    latency_low_ms: float
    latency_high_ms: float
    macs: int
    parameters: int
    weight_size_bytes: int
    file_size_bytes: int
    unknown_kernels: tuple[str, ...] = ()
    size_name: str = "onnx_size_bytes"

    def named(self) -> Mapping[str, float]:
        """By the names that budgets and measurements use. A container is taken to be as large as the file in it."""
        return {
            "latency_ms": self.latency.value,
            "macs": self.macs,
            "parameters": self.parameters,
            "weight_size_bytes": self.weight_size_bytes,
            self.size_name: self.file_size_bytes,
            "download_size_bytes": self.file_size_bytes,
        }

    def optimistic(self) -> Mapping[str, float]:
        """`named`, with the latency at the low end of its interval."""
        return {**self.named(), "latency_ms": self.latency_low_ms}


class Pricer:
    """Prices recipes of one network on one target; the same recipe is priced once. Not for use by two threads at once.

    Args:
        network: the original, with real weights: some structures (ranks by energy) follow from them.
        batch: images per run that the latency is for.
        context: facts of target and request that techniques get.
    """

    def __init__(self, network: Network, predictor: Predictor, batch: int = 1, context: TechniqueContext | None = None) -> None:
        self._network = network
        self._meta = network.to_meta()
        self._predictor = predictor
        self._artifact = runtime_of(predictor.target).artifact
        self._batch = batch
        # Techniques may ask the pricer itself what a network costs.
        self._context = replace(context or TechniqueContext(), cost=self)
        self._prices: dict[str, Price] = {}
        self._begun: dict[str, Network] = {}

    @property
    def source(self) -> str:
        """What its latencies are, in words: without a measured kernel they are a data sheet's."""
        return "predicted" if self._predictor.calibrated else "predicted, uncalibrated"

    def price(self, recipe: Recipe) -> Price:
        """Price a recipe.

        Raises:
            ConfigError: the recipe does not fit the network.
        """
        digest = recipe.digest
        if digest not in self._prices:
            self._prices[digest] = self.price_network(self._applied(recipe))
        return self._prices[digest]

    def price_network(self, network: Network) -> Price:
        """Price a network as it is, real or meta."""
        graph = describe(network, self._batch)
        prediction = self._predictor.predict(graph)
        return Price(
            latency=_measurement(prediction),
            latency_low_ms=prediction.low_ms,
            latency_high_ms=prediction.high_ms,
            macs=graph.macs() // self._batch,
            parameters=network.parameter_count(),
            weight_size_bytes=weight_size_bytes(network),
            file_size_bytes=self._artifact.predicted_size_bytes(graph),
            unknown_kernels=prediction.unknown,
            size_name=self._artifact.size_name,
        )

    def __call__(self, network: Network) -> float:
        """Predicted milliseconds: the `techniques.context.CostFunction` of the search's target."""
        return self._predictor.predict(describe(network, self._batch)).value_ms

    def begun(self, recipe: Recipe) -> Network:
        """The network on meta after a recipe that others go on from; remembered, so it must not be changed.

        Raises:
            DataRequiredError: its structure follows from the weights' values.
        """
        steps = _priced_order(recipe)
        return self._on_meta(steps, remembered=len(steps))

    def _applied(self, recipe: Recipe) -> Network:
        steps = _priced_order(recipe)
        try:
            return self._on_meta(steps, remembered=len(steps) - 1)
        except DataRequiredError:
            return apply_recipe(self._network, recipe, self._context)

    def _on_meta(self, steps: Sequence[tuple[int, Step]], remembered: int) -> Network:
        """Steps applied in order; what the first ones give is remembered, for recipes of one search begin alike."""
        network = self._meta
        for position, (index, step) in enumerate(steps):
            digest = Recipe(tuple(s for _, s in steps[: position + 1])).digest
            known = self._begun.get(digest)
            made = apply_step(network, index, step, self._context) if known is None else known
            if _ignores_sizes(step):
                for _, later in steps[position + 1 :]:
                    _transform(later).carry(network, made)
            network = made
            if known is None and position < remembered:
                if len(self._begun) >= MAX_BEGUN:
                    self._begun.clear()
                self._begun[digest] = network
        return network


def price_measurements(price: Price) -> dict[str, Measurement]:
    """A price as stored measurements: latency and file sizes predicted, the rest counted."""
    return {
        "latency_ms": price.latency,
        "macs": Measurement(price.macs, "counted"),
        "parameters": Measurement(price.parameters, "counted"),
        "weight_size_bytes": Measurement(price.weight_size_bytes, "counted"),
        price.size_name: Measurement(price.file_size_bytes, "predicted"),
        "download_size_bytes": Measurement(price.file_size_bytes, "predicted"),
    }


def _priced_order(recipe: Recipe) -> list[tuple[int, Step]]:
    """The steps that change a structure, each with its place in the recipe.

    What changes sizes only comes behind a last step that ignores them: the same structure results, and what comes before it is
    shared by all recipes that prune differently.
    """
    steps = [(i, step) for i, step in enumerate(recipe.steps) if not isinstance(registry.get(step.technique), TrainingMethod)]
    if len(steps) > 1 and _transform(steps[-2][1]).changes_sizes_only and _ignores_sizes(steps[-1][1]):
        steps[-2:] = [steps[-1], steps[-2]]
    return steps


def _transform(step: Step) -> Transform[Any]:
    technique = registry.get(step.technique)
    assert isinstance(technique, Transform)  # those that train are left out of what is priced
    return technique


def _ignores_sizes(step: Step) -> bool:
    return _transform(step).ignores_sizes


def _measurement(prediction: Prediction) -> Measurement:
    half_width = max(prediction.high_ms - prediction.value_ms, prediction.value_ms - prediction.low_ms)
    return Measurement(prediction.value_ms, "predicted", half_width)
