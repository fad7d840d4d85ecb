"""Norms whose statistics run over channels, after some of these are gone: the missing ones are counted as zeros.

A layer norm that simply shrank would divide by another deviation and change every channel that is left. Counting zeros keeps the
outputs of the network in which the removed channels' weights are zero, exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PaddedNorm(nn.Module):
    """Layer norm over one axis, or group norm, of ``counted`` channels of which only some are there.

    Attributes:
        groups: group norm in as many groups; 0 for a layer norm.
        dim: the channels' axis; 1 for group norm.
        counted: channels that statistics are over, per group.
    """

    def __init__(
        self, weight: nn.Parameter | None, bias: nn.Parameter | None, eps: float, dim: int, counted: int, groups: int = 0
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.eps, self.dim, self.counted, self.groups = eps, dim, counted, groups

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return self._group_norm(x) if self.groups else self._layer_norm(x)

    def _layer_norm(self, x: Tensor) -> Tensor:
        last = x.dim() - 1
        dim = self.dim % x.dim()
        y = x if dim == last else x.movedim(dim, last)
        there = y.shape[last]
        y = nn.functional.pad(y, [0, self.counted - there])
        y = nn.functional.layer_norm(y, [self.counted], None, None, self.eps).narrow(last, 0, there)
        if self.weight is not None:
            y = y * self.weight
        if self.bias is not None:
            y = y + self.bias
        return y if dim == last else y.movedim(last, dim)

    def _group_norm(self, x: Tensor) -> Tensor:
        x = x.float()  # a variance by difference has no digits left in bfloat16
        batch, there = x.shape[0], x.shape[1]
        y = x.reshape(batch, self.groups, -1)
        positions = y.shape[2] // (there // self.groups) * self.counted
        mean = y.sum(2, keepdim=True) / positions
        variance = (y * y).sum(2, keepdim=True) / positions - mean * mean
        y = ((y - mean) * torch.rsqrt(variance + self.eps)).reshape(x.shape)
        shape = [1, there, *[1] * (x.dim() - 2)]
        if self.weight is not None:
            y = y * self.weight.reshape(shape)
        if self.bias is not None:
            y = y + self.bias.reshape(shape)
        return y

    def extra_repr(self) -> str:
        """Sizes."""
        return f"groups={self.groups}, dim={self.dim}, counted={self.counted}, eps={self.eps}"
