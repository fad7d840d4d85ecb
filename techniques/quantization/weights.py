"""Steps of integer weights, one per output channel: as fine as 8 bits, the bias and the runtime's sums of products allow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WEIGHT_LIMIT = 127
"""Weights are symmetric: -127 ... 127."""
PAIR_LIMIT = 128
"""x86 without VNNI adds two products with uint8 activations in 16 bits: 255 * 128 is the most that does not saturate."""
BIAS_LIMIT = 2.0**29
"""Runtimes add a bias as int32 in units of input scale times weight step; sums of products need the rest of the 32 bits."""
_FINE_BIAS = 2.0**20
_LEAST_SHARE = 2.0**-24
_LEAST_UNIT = 2.0**-100


@torch.no_grad()
def weight_scales(layer: nn.Conv2d | nn.Linear, reduced: bool, input_scale: float) -> Tensor:
    """The real value of one integer step per output channel, ``(out,)`` float32.

    Two things make a step larger than a channel's largest weight over 127:

    - The bias. Runtimes compute in int32 with the bias in units of ``input_scale * step``. Where a channel's weights or inputs are
      nearly zero that quotient leaves 32 bits and wraps, so the step grows until it is at most `BIAS_LIMIT`; such weights round to
      0, but what they could add is then below a millionth of the bias. A channel of zeros takes the step that its bias needs.
    - The products, where ``reduced``: see `_largest_pairs`.
    """
    weight, bias = layer.weight.detach().double(), layer.bias
    largest = weight.flatten(1).abs().amax(1)
    scale = channel_steps(weight, reduced and not is_depthwise(layer))
    offset = torch.zeros_like(largest) if bias is None else bias.detach().abs().double()
    unused = (offset / (input_scale * _FINE_BIAS)).where(offset > 0, 1.0)
    scale = torch.where(largest > 0, scale, unused)
    needed = torch.maximum(offset / BIAS_LIMIT, torch.full_like(offset, _LEAST_UNIT)) / input_scale
    return torch.maximum(scale, needed).float()


def channel_steps(weight: Tensor, reduced: bool) -> Tensor:
    """The step of each output channel that its weights ask for, ``(out,)``: what a factor on a whole channel does not change.

    Args:
        reduced: whether two neighbours must stay within `PAIR_LIMIT`.
    """
    largest = weight.flatten(1).abs().amax(1)
    steps = torch.maximum(largest, largest.max() * _LEAST_SHARE) / WEIGHT_LIMIT
    if reduced:
        steps = torch.maximum(steps, _largest_pairs(weight) / (PAIR_LIMIT - 1))  # each of the two is rounded by up to half a step
    return steps.clamp(min=_LEAST_UNIT)


def is_depthwise(layer: nn.Conv2d | nn.Linear) -> bool:
    """Whether runtimes compute the layer by their depthwise kernel, which adds in 32 bits."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels


def _largest_pairs(weight: Tensor) -> Tensor:
    """The largest sum of two neighbours of one sign, per output channel.

    Kernels multiply neighbours along the packed inputs and add the two products first: channels of one position in a channels-last
    kernel, positions of one channel in the other order. Weights whose neighbours are small, or of the other sign, keep all 8 bits.
    """
    orders = [weight.flatten(1)]
    if weight.ndim == 4 and weight.shape[2:].numel() > 1:
        orders.append(weight.permute(0, 2, 3, 1).flatten(1))
    pairs = [row[:, :-1] + row[:, 1:] for row in orders if row.shape[1] > 1]
    same = [row[:, :-1] * row[:, 1:] > 0 for row in orders if row.shape[1] > 1]
    sums = [pair.abs().where(match, 0.0).amax(1) for pair, match in zip(pairs, same, strict=True)]
    return torch.stack(sums).amax(0) if sums else weight.new_zeros(len(weight))
