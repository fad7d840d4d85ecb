"""What a quantised network does otherwise than the one it came from: its outputs' error, and shifts that biases take back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from techniques.context import ImageSource
from techniques.errors import DataRequiredError
from techniques.network import Network
from techniques.quantization.layers import QuantizedConv2d, QuantizedLinear


@dataclass(frozen=True)
class Comparison:
    """A float network on a few images, to compare quantised ones with.

    Attributes:
        images: ``(n, channels, height, width)``.
        outputs: the network's on them.
        means: for each layer that is called once, its output's mean per channel over images and positions.
    """

    images: Tensor
    outputs: Tensor
    means: dict[str, Tensor]

    @staticmethod
    def of(network: Network, layers: Collection[str], source: ImageSource, image_count: int) -> Comparison:
        """Run the float network on the first images of a source.

        Raises:
            DataRequiredError: the source has no images.
        """
        batch = next(iter(source.batches(0, image_count)), None)
        if batch is None or not len(batch.images):
            raise DataRequiredError("int8_quantization: the calibration source holds no images")
        calls = [str(node.target) for node, _ in network.module_calls()]
        means = _Means(network.graph, {name for name in layers if calls.count(name) == 1})
        with torch.no_grad():
            outputs = means.run(batch.images)
        return Comparison(batch.images, outputs, means.found)

    def error(self, network: Network) -> float:
        """Mean squared error of the outputs over their variance; infinite where an output is none."""
        with torch.no_grad():
            return self._relative(network(self.images))

    def corrected(self, network: Network) -> float:
        """Correct the biases of a quantised network in place, then `error`.

        Rounding weights and inputs shifts a channel's mean. Layer by layer, on inputs that earlier layers' corrections already
        moved, the bias takes the shift back (Nagel et al. 2019, "Data-free quantization", section 4.2, with means measured on
        images as in its appendix). Layers without a bias stay as they are.
        """
        with torch.no_grad():
            return self._relative(_Correction(network.graph, self.means).run(self.images))

    def _relative(self, outputs: Tensor) -> float:
        error = float((outputs - self.outputs).double().square().mean() / self.outputs.double().var().clamp_min(1e-30))
        return error if error == error else float("inf")


def _channel_mean(value: Tensor, layer: nn.Module | None) -> Tensor:
    """Mean over all but the channels: axis 1 of what a convolution yields, the last axis of what a linear does."""
    return value.mean((0, 2, 3)) if isinstance(layer, nn.Conv2d) else value.flatten(0, -2).mean(0)


class _Means(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, layers: Collection[str]) -> None:
        super().__init__(graph)
        self._layers = layers
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_module" and str(n.target) in self._layers:
            self.found[str(n.target)] = _channel_mean(value, self.submodules.get(str(n.target)))
        return value


class _Correction(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, means: dict[str, Tensor]) -> None:
        super().__init__(graph)
        self._means = means

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        layer: nn.Module | None = self.submodules.get(str(n.target)) if n.op == "call_module" else None
        if isinstance(layer, QuantizedConv2d | QuantizedLinear) and layer.bias is not None and str(n.target) in self._means:
            shift = _channel_mean(value, layer) - self._means[str(n.target)]
            layer.bias -= shift
            return value - (shift.view(-1, 1, 1) if isinstance(layer, nn.Conv2d) else shift)
        return value
