"""The mean of a network's weights over some steps (stochastic weight averaging, Izmailov et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from techniques.network import Network


class WeightMean:
    """A running mean of all tensors of floats; others are as they were last."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self._count = 0

    @staticmethod
    def of(values: Mapping[str, Tensor]) -> WeightMean | None:
        """A mean that was taken before; None if there is none."""
        if not values:
            return None
        mean = WeightMean()
        mean.values = dict(values)
        return mean

    @torch.no_grad()
    def add(self, network: Network) -> None:
        """Take the weights in as they are now."""
        self._count += 1
        for name, tensor in network.graph.state_dict().items():
            value = tensor.detach()
            if name in self.values and value.is_floating_point():
                self.values[name] += (value - self.values[name]) / self._count
            else:
                self.values[name] = value.clone()

    @torch.no_grad()
    def copy_to(self, network: Network) -> None:
        """Give a network of the same structure these weights."""
        network.graph.load_state_dict({name: value.cpu() for name, value in self.values.items()})
