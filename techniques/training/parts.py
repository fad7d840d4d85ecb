"""What a training is composed of: losses that are summed up, and regimes that act on the network beside the optimiser's steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from techniques.context import Batch
from techniques.network import Network


class Loss(Protocol):
    """A term of what is minimised; pure, and with a ``repr`` that says all that decides it."""

    def __call__(self, network: Network, outputs: Tensor, batch: Batch) -> Tensor:
        """A scalar.

        Args:
            outputs: the network's logits or values on the batch, ``(n, columns)`` (`techniques.head.training_logits`).

        Raises:
            DataRequiredError: the batch lacks what it needs.
        """
        ...


class Regime:
    """Acts on a network while it is trained: gradual pruning, quantisation in the loop, weights of few values.

    `begin` may add parametrizations that only training needs; `finish` takes them away again. A network that still has any when it
    is exported is refused. Whatever it must remember between two steps stands in buffers of the network, for a training may be
    resumed in another process. Subclasses have a ``repr`` that says all that decides them.
    """

    def begin(self, network: Network) -> None:
        """Before the first step, and again where training is resumed from a checkpoint: the same parametrizations each time."""

    def after_step(self, network: Network, step: int, steps: int) -> None:
        """After each step of the optimiser.

        Args:
            step: how many were done over all rungs so far, this one included.
            steps: how many the plan has for the rungs of a search, the same in each of them; the last rung goes beyond.
        """

    def finish(self, network: Network) -> None:
        """Leave the network as it is to be used; called on a copy whenever a rung is read."""


@dataclass(frozen=True)
class SgdConfig:
    """SGD with Nesterov momentum; weight decay spares biases and norms."""

    learning_rate: float
    weight_decay: float
    momentum: float = 0.9
