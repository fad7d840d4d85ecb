"""A value of a graph as the labels of its positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from techniques.channels.atoms import Ids, ids_of


@dataclass(frozen=True)
class Value:
    """What stands for a tensor while labels are propagated.

    Attributes:
        shape: of the tensor.
        labels: float64, of the tensor's rank; size 1 along every dimension along which labels do not change.
        zero: whether the network computes zero where a channel's weights are zeroed in every place, until a sum, a sigmoid or the
            like makes something else of it. Sums and norms over channels may only read such positions.
        dtype: of the tensor.
    """

    shape: tuple[int, ...]
    labels: Tensor
    zero: bool = True
    dtype: torch.dtype = torch.float32

    @staticmethod
    def always(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Value:
        """Positions that are there whatever is removed."""
        return Value(tuple(shape), torch.zeros((1,) * len(shape), dtype=torch.float64), False, dtype)

    @staticmethod
    def along(shape: tuple[int, ...], dim: int, ids: Ids, zero: bool = True) -> Value:
        """Labels that change along one dimension alone."""
        sizes = [1] * len(shape)
        sizes[dim] = len(ids)
        return Value(tuple(shape), torch.from_numpy(ids.astype(np.float64)).reshape(sizes), zero)

    @staticmethod
    def of(labels: Tensor, zero: bool, dtype: torch.dtype = torch.float32) -> Value:
        """From labels of the full shape."""
        return Value(tuple(labels.shape), compact(labels), zero, dtype)

    @property
    def varying(self) -> tuple[int, ...]:
        """Dimensions along which labels change."""
        return tuple(d for d, size in enumerate(self.labels.shape) if size > 1)

    @property
    def labelled(self) -> bool:
        """Whether any position may go."""
        return bool(self.labels.numel()) and bool((self.labels > 0).any())

    def full(self) -> Tensor:
        """Labels of every position (a view)."""
        return self.labels.expand(self.shape)

    def ids(self) -> Ids:
        """The labels that occur, each at least once."""
        return ids_of(self.labels).reshape(-1)

    def slices(self, dim: int) -> Ids:
        """``(size, n)``: the labels that each index along ``dim`` meets."""
        if not self.labels.numel():
            return np.zeros((self.shape[dim], 0), np.int64)
        moved = self.labels.movedim(dim, 0).flatten(1) if self.labels.dim() > 1 else self.labels[:, None]
        return ids_of(moved.expand(self.shape[dim], moved.shape[1]))


def compact(labels: Tensor) -> Tensor:
    """The same labels with size 1 along each dimension along which they do not change."""
    for dim in range(labels.dim()):
        if labels.shape[dim] < 2:
            continue
        first = labels.narrow(dim, 0, 1)
        if labels.stride(dim) == 0 or bool((labels == first).all()):
            labels = first
    return labels
