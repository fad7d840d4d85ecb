"""Quantisation in the loop: what int8 will round is rounded while the network is trained (Jacob et al. 2018, section 3).

Only in the last rung, whose steps few candidates get: the rungs before compare networks, and rounding tells them apart no better.
Gradients pass the rounding as if it were not there (Bengio et al. 2013).
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from techniques.network import Network
from techniques.quantization.weights import WEIGHT_LIMIT, channel_steps, is_depthwise
from techniques.training.parts import Regime

_LEAST_RANGE = 1e-8


@dataclass(frozen=True)
class QuantizationInTheLoop(Regime):
    """Weights and inputs of layers are rounded to 8 bits, from the first step of the last rung on.

    A weight's steps are those of its output channel, as `weight_scales` has them; a batch norm that is folded later changes nothing
    about them. Inputs are rounded between the least and the largest value of their batch.

    Attributes:
        layers: ``all``, or names of convolutions and linears.
        exclude: shell patterns of layers that stay float.
        scopes: shell patterns of modules that may be changed.
        reduced: see `Int8QuantizationConfig.reduce_range`.
    """

    layers: tuple[str, ...] | str
    exclude: tuple[str, ...]
    scopes: tuple[str, ...]
    reduced: bool

    def begin(self, network: Network) -> None:
        """Parametrizations that do nothing yet."""
        for _, layer in self._chosen(network):
            rounded = _RoundedWeight(self.reduced, depthwise=is_depthwise(layer))
            parametrize.register_parametrization(layer, "weight", rounded)
            layer.register_forward_pre_hook(_round_inputs)

    def after_step(self, network: Network, step: int, steps: int) -> None:
        """The steps behind the rungs' are those of the last one."""
        if step < steps:
            return
        for module in network.graph.modules():
            if isinstance(module, _RoundedWeight):
                module.active.fill_(True)

    def finish(self, network: Network) -> None:
        """Floats again, which int8 rounds once more where they are now."""
        for _, layer in self._chosen(network):
            layer._forward_pre_hooks = type(layer._forward_pre_hooks)(
                (key, hook) for key, hook in layer._forward_pre_hooks.items() if hook is not _round_inputs
            )
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)

    def _chosen(self, network: Network) -> list[tuple[str, nn.Conv2d | nn.Linear]]:
        """Each module once, however often it is called."""
        return [
            (name, layer)
            for name, layer in network.graph.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
            and (self.layers == "all" or name in self.layers)
            and any(fnmatch.fnmatchcase(name, pattern) for pattern in self.scopes)
            and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude)
        ]


class _RoundedWeight(nn.Module):
    """A weight on the steps of its output channels; ``active`` is kept with the network, so that training can be resumed."""

    active: Tensor

    def __init__(self, reduced: bool, depthwise: bool) -> None:
        super().__init__()
        self._reduced, self._depthwise = reduced, depthwise
        self.register_buffer("active", torch.tensor(False))

    def forward(self, weight: Tensor) -> Tensor:
        """Any weight whose first axis are output channels."""
        if not self.active:
            return weight
        with torch.no_grad():
            step = channel_steps(weight, self._reduced and not self._depthwise).to(weight.dtype)
            step = step.view(-1, *[1] * (weight.ndim - 1))
            rounded = (weight / step).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT) * step
        return weight + (rounded - weight).detach()


def _round_inputs(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    (rounded,) = layer.parametrizations["weight"]  # type: ignore[index]
    if not rounded.active:
        return None
    x = inputs[0].float()  # 256 steps need more digits than bfloat16 has
    with torch.no_grad():
        low, high = x.aminmax()
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = (high - low).clamp(min=_LEAST_RANGE) / 255
        zero = (-low / scale).round()
        whole = (((x / scale).round() + zero).clamp(0, 255) - zero) * scale
    return (x + (whole - x).detach(), *inputs[1:])
