"""Positions chosen along one axis, some of them empty: what becomes of slices and pads once channels are gone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ChannelGather(nn.Module):
    """Position ``i`` of the result is position ``index[i]`` of the input along ``dim``; -1 stands for zero."""

    def __init__(self, index: Sequence[int], dim: int) -> None:
        super().__init__()
        self.index, self.dim = [int(i) for i in index], dim

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        index, dim = self.index, self.dim
        kept = [i for i in index if i >= 0]
        start = kept[0] if kept else 0
        if kept == list(range(start, start + len(kept))):
            y = x if start == 0 and len(kept) == x.shape[dim] else x.narrow(dim, start, len(kept))
            empty = [position for position, i in enumerate(index) if i < 0]
            before = next((position for position, i in enumerate(index) if i >= 0), 0)
            if not empty:
                return y
            if empty == [*range(before), *range(before + len(kept), len(index))]:
                behind = [0, 0] * (x.dim() - 1 - dim)
                return nn.functional.pad(y, [*behind, before, len(index) - before - len(kept)])
        if len(kept) < len(index):
            x = nn.functional.pad(x, [*[0, 0] * (x.dim() - 1 - dim), 0, 1])
            index = [x.shape[dim] - 1 if i < 0 else i for i in index]
        return torch.index_select(x, dim, torch.tensor(index, device=x.device))

    def extra_repr(self) -> str:
        """Sizes."""
        return f"positions={len(self.index)}, dim={self.dim}"
