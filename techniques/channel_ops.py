"""Channel operations without baked sizes: what a lifted graph calls where an export wrote constants (splits, shuffles, scales).

Sizes and indices are Python values, not buffers, so that pruning works on meta networks as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class ChannelSlice(nn.Module):
    """One part of a split along channels: ``(b, sum(sizes), ...)`` to ``(b, sizes[position], ...)``.

    All parts of one split share the list ``sizes``; a part that loses channels thereby moves its later siblings.
    """

    def __init__(self, sizes: list[int], position: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.position = position

    def source_channels(self) -> list[int]:
        """Input channel of every output channel."""
        start = sum(self.sizes[: self.position])
        return list(range(start, start + self.sizes[self.position]))

    def remove(self, outputs: Sequence[int]) -> None:
        """Drop these output channels (and with them their input channels)."""
        self.sizes[self.position] -= len(set(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Cut the part out."""
        return x.narrow(1, sum(self.sizes[: self.position]), self.sizes[self.position])

    def extra_repr(self) -> str:
        """The part and the sizes of all parts."""
        return f"position={self.position}, sizes={self.sizes}"


class ChannelPermutation(nn.Module):
    """Reorders channels. While nothing is pruned, a shuffle of ``groups`` groups (ShuffleNet, Zhang 2018, section 3.1) runs as
    reshape, transpose, reshape; after pruning, the remaining order runs as one gather."""

    def __init__(self, index: Sequence[int], groups: int = 0) -> None:
        super().__init__()
        self.index = list(index)
        self.groups = groups

    @staticmethod
    def shuffle(channels: int, groups: int) -> ChannelPermutation:
        """The channel shuffle of ShuffleNet."""
        order = torch.arange(channels).reshape(groups, channels // groups).T.reshape(-1)
        return ChannelPermutation(order.tolist(), groups)

    def source_channels(self) -> list[int]:
        """Input channel of every output channel."""
        return self.index

    def remove(self, outputs: Sequence[int]) -> None:
        """Drop these output channels (and with them their input channels)."""
        dropped = set(outputs)
        kept = [channel for position, channel in enumerate(self.index) if position not in dropped]
        rank = {channel: new for new, channel in enumerate(sorted(kept))}
        self.index = [rank[channel] for channel in kept]
        self.groups = 0

    def forward(self, x: Tensor) -> Tensor:
        """Reorder the channels of ``(b, c, h, w)``."""
        if self.groups:
            batch, channels, height, width = x.shape
            parts = x.reshape(batch, self.groups, channels // self.groups, height, width)
            return parts.transpose(1, 2).reshape(batch, channels, height, width)
        return torch.index_select(x, 1, torch.tensor(self.index, device=x.device))

    def extra_repr(self) -> str:
        """Channel count and groups."""
        return f"channels={len(self.index)}, groups={self.groups}"


class ChannelScale(nn.Module):
    """A learned factor per channel (ConvNeXt's layer scale): ``(b, c, h, w) * (c, 1, 1)``."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel."""
        return x * self.weight


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a map (the LayerNorm2d of ConvNeXt, Liu 2022): each position of ``(b, c, h, w)`` is
    normalised over ``c``, then scaled and shifted per channel.

    Args:
        channels: size of axis 1.
        weight: factor per channel ``(c,)``, or none.
        bias: shift per channel ``(c,)``, or none.
        eps: added to the (biased) variance.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self, channels: int, weight: nn.Parameter | None = None, bias: nn.Parameter | None = None, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over axis 1."""
        last = x.permute(0, 2, 3, 1)
        return functional.layer_norm(last, (self.channels,), self.weight, self.bias, self.eps).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """Channel count, epsilon and what is learned."""
        return f"channels={self.channels}, eps={self.eps}, weight={self.weight is not None}, bias={self.bias is not None}"
