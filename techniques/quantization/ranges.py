"""Activation ranges from calibration images: histograms per value, then a range by min-max, percentile or squared error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx

from techniques.context import ImageSource
from techniques.errors import DataRequiredError, TechniqueError
from techniques.network import Network

RangeChoice = Literal["min_max", "percentile", "mse"]
RANGE_CHOICES: tuple[RangeChoice, ...] = get_args(RangeChoice)
BINS = 2048
_MSE_SHARES = 40


@dataclass(frozen=True)
class Histogram:
    """How often a value occurred: ``counts`` over equal bins from ``low`` to ``high``."""

    counts: Tensor
    low: float
    high: float

    def centers(self) -> Tensor:
        """Middle of each bin."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (torch.arange(len(self.counts), dtype=torch.float64) + 0.5)


def collect(network: Network, nodes: Iterable[str], images: ImageSource, image_count: int) -> dict[str, Histogram]:
    """Histograms of the named nodes' values over the first images, in two passes (limits, then counts).

    Raises:
        DataRequiredError: the source has no images.
        TechniqueError: an activation is NaN or infinite.
    """
    wanted = set(nodes)
    limits = _Limits(network.graph, wanted)
    _run(limits, images, image_count)
    if limits.broken:
        raise TechniqueError(f"int8_quantization: node {limits.broken[0]} yields NaN or infinite values on the calibration images")
    if not limits.found:
        raise DataRequiredError("int8_quantization: the calibration source holds no images")
    counts = _Counts(network.graph, limits.found)
    _run(counts, images, image_count)
    return {name: Histogram(counts.counts[name], *limits.found[name]) for name in limits.found}


def choose_range(histogram: Histogram, choice: RangeChoice, percentile: float) -> tuple[float, float]:
    """Low and high of the representable range; zero always lies within."""
    low, high = histogram.low, histogram.high
    if choice == "percentile":
        low, high = _percentile(histogram, percentile)
    elif choice == "mse":
        low, high = _least_squares(histogram)
    return min(low, 0.0), max(high, 0.0)


def affine_parameters(low: float, high: float, unsigned: bool) -> tuple[float, int]:
    """Scale and zero point of 8 bits over ``[low, high]``, zero being exact (Jacob et al. 2018, section 2.1)."""
    scale = max(high - low, 1e-8) / 255
    first = 0 if unsigned else -128
    return scale, min(max(first + round(-low / scale), first), first + 255)


def _percentile(histogram: Histogram, percentile: float) -> tuple[float, float]:
    share = histogram.counts.cumsum(0) / histogram.counts.sum()
    width = (histogram.high - histogram.low) / len(share)
    tail = 1 - percentile / 100
    upper = int((share < 1 - tail).sum()) + 1
    lower = int((share <= tail).sum())
    return histogram.low + width * lower, histogram.low + width * min(upper, len(share))


def _least_squares(histogram: Histogram) -> tuple[float, float]:
    """The shrunk range with the least squared error of clipping and rounding."""
    centers, counts = histogram.centers(), histogram.counts.double()
    best, best_error = (histogram.low, histogram.high), float("inf")
    for step in range(_MSE_SHARES):
        share = 1 - 0.8 * step / _MSE_SHARES
        low, high = min(histogram.low, 0.0) * share, max(histogram.high, 0.0) * share
        scale, zero = affine_parameters(low, high, unsigned=True)
        rounded = ((centers / scale).round() + zero).clamp(0, 255).sub(zero) * scale
        error = float((counts * (rounded - centers).square()).sum())
        if error < best_error:
            best, best_error = (low, high), error
    return best


def _run(interpreter: fx.Interpreter, images: ImageSource, image_count: int) -> None:
    seen = 0
    with torch.no_grad():
        for batch in images.batches(0, min(64, image_count)):
            interpreter.run(batch.images[: image_count - seen])
            seen += len(batch.images)
            if seen >= image_count:
                return


class _Limits(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, nodes: set[str]) -> None:
        super().__init__(graph)
        self._nodes = nodes
        self.found: dict[str, tuple[float, float]] = {}
        self.broken: list[str] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._nodes:
            low, high = (float(limit) for limit in value.aminmax())
            if not (math.isfinite(low) and math.isfinite(high)):
                self.broken.append(n.name)
            before = self.found.get(n.name, (low, high))
            self.found[n.name] = (min(low, before[0]), max(high, before[1]))
        return value


class _Counts(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, limits: Mapping[str, tuple[float, float]]) -> None:
        super().__init__(graph)
        self._limits = limits
        self.counts = {name: torch.zeros(BINS, dtype=torch.float64) for name in limits}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._limits:
            low, high = self._limits[n.name]
            if high > low:
                self.counts[n.name] += torch.histc(value, BINS, low, high)
            else:
                self.counts[n.name][0] += value.numel()
        return value
