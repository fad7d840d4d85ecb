"""scikit-learn's 1,797 digits of 8x8 pixels (Alpaydin and Kaynak 1998): the smallest real set, for quick tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

CLASS_NAMES = tuple(str(digit) for digit in range(10))
MEAN, STD = 0.3053, 0.3760
TEST_IMAGES = 360
_SHUFFLE_SEED = 0


@dataclass(frozen=True)
class Digits:
    """Grey images ``(n, 8, 8)`` uint8 and labels ``(n,)`` int64, shuffled once and for all."""

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]


def load() -> Digits:
    """Read the set; its values 0..16 are scaled to 0..255."""
    bunch = load_digits()
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(bunch.images))
    images = np.rint(bunch.images[order] * (255 / 16)).astype(np.uint8)
    labels = np.asarray(bunch.target, np.int64)[order]
    train = len(images) - TEST_IMAGES
    return Digits(images[:train], labels[:train], images[train:], labels[train:])
