"""How a search reads a network's outputs: which metric, on what kind of decision, from what kind of file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from search.errors import BaselineError
from search.evaluation.metrics import METRICS
from techniques.head import Head, Task, find_head, logits_of
from techniques.network import Network

Outputs = npt.NDArray[np.float32]

_OUTPUT_VALUES = 1 << 28
_ONE_DECISION = 0.99
"""From this share of images on, one same decision tells nothing: a network that always says so would agree."""
_FIDELITY = "so AGREEMENT is their fidelity here: 1 minus the relative error of the outputs, mean over images"


@dataclass(frozen=True)
class Reading:
    """The original's and every candidate's outputs are read the same way, in torch and from a file.

    Attributes:
        head: shape and final activation of the outputs.
        task: what they decide.
        note: what the report must say about it; empty where the metric means what its name says.
    """

    metric: str
    head: Head
    task: Task = "classes"
    note: str = ""

    def images_at_once(self, most: int) -> int:
        """Images per run, at most so many that the outputs of one run stay below a gigabyte."""
        return max(1, min(most, _OUTPUT_VALUES // max(1, self.head.outputs)))

    def logits(self, outputs: Outputs | Tensor) -> Outputs:
        """Rows of logits ``(n, columns)`` of what a network or its file gives."""
        tensor = outputs if isinstance(outputs, Tensor) else torch.from_numpy(np.asarray(outputs))
        return np.asarray(logits_of(tensor.detach(), self.head, self.task).numpy(), np.float32)

    def predictor(self, network: Network) -> Callable[[Tensor], Tensor]:
        """The network as a function from images to rows of logits."""
        return lambda images: logits_of(network(images), self.head, self.task)


def choose_reading(
    network: Network, metric: str, labels: npt.NDArray[Any] | None, decide_on: Callable[[Reading], Outputs]
) -> Reading:
    """What the original's outputs mean on this data.

    Args:
        network: the original.
        labels: of the validation split ``(n,)`` or ``(n, labels)``; None for label-free data.
        decide_on: gives the original's logits on the validation split; asked only if the metric needs no labels.

    Raises:
        BaselineError: a metric that needs labels, on outputs that no label describes.
    """
    head = find_head(network)
    task = _task(head, labels)
    if not METRICS[metric].label_free:
        if task == "values":
            raise BaselineError(
                f"the network gives {_words(head)} for an image, which no class label describes, so {metric!r} cannot be read; "
                "search with metric AGREEMENT: outputs are then compared with the original's own"
            )
        return Reading(metric, head, task)
    if task == "values" or (head == Head(()) and labels is None):
        return Reading(metric, head, "values", f"the network gives {_words(head)} for an image and no classes, {_FIDELITY}")
    reading = Reading(metric, head, task)
    share = _commonest_share(decisions(decide_on(reading), task))
    if share >= _ONE_DECISION:
        words = f"the original decides the same on {100 * share:.1f}% of the validation images, which any network could repeat"
        return Reading(metric, head, "values", f"{words}, {_FIDELITY}")
    return reading


def decisions(logits: Outputs, task: Task) -> npt.NDArray[Any]:
    """What is decided per image: the class ``(n,)``, or yes and no per label ``(n, labels)``."""
    return np.asarray(logits > 0 if task == "labels" else logits.argmax(axis=1))


def _task(head: Head, labels: npt.NDArray[Any] | None) -> Task:
    if not head.is_row:
        return "values"
    several = labels is not None and labels.ndim > 1
    if head.outputs > 1 and (head.activation == "sigmoid" or (several and head.activation == "none")):
        return "labels"
    return "classes"


def _commonest_share(decided: npt.NDArray[Any]) -> float:
    return float(np.unique(decided, axis=0, return_counts=True)[1].max() / len(decided))


def _words(head: Head) -> str:
    return f"values of shape {head.shape}" if head.shape else "one number"
