"""Write an example set as the npz that a client uploads: ``images``, ``labels``, ``split``, ``class_names``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt


class ImageSet(Protocol):
    """What the readers of this folder give: images ``(n, h, w)`` uint8, labels ``(n,)`` int64."""

    @property
    def train_images(self) -> npt.NDArray[np.uint8]:
        """Images to train on."""
        ...

    @property
    def train_labels(self) -> npt.NDArray[np.int64]:
        """Their labels."""
        ...

    @property
    def test_images(self) -> npt.NDArray[np.uint8]:
        """Images to report on."""
        ...

    @property
    def test_labels(self) -> npt.NDArray[np.int64]:
        """Their labels."""
        ...


def write_npz(path: Path, data: ImageSet, held_out: int, class_names: Sequence[str]) -> None:
    """Write all images with their split: the last ``held_out`` training images, which the model must not have been trained
    on, become half validation and half selection.

    Raises:
        ValueError: fewer training images than that.
    """
    train = len(data.train_images) - held_out
    if train < 1 or held_out < 2:
        raise ValueError(f"held_out must be between 2 and {len(data.train_images) - 1}, got {held_out}")
    half = held_out // 2
    counts = {"train": train, "validation": half, "selection": held_out - half, "test": len(data.test_images)}
    np.savez_compressed(
        path,
        images=np.concatenate([data.train_images, data.test_images]),
        labels=np.concatenate([data.train_labels, data.test_labels]),
        split=np.repeat(list(counts), list(counts.values())),
        class_names=np.array(class_names),
    )
