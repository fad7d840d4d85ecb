"""Images of a canonical dataset as tensors: splits for evaluation, sources for calibration and training.

Everything random is a pure function of the seed: which images calibrate, the order of an epoch, and how image ``i`` is
shifted or flipped in view ``v``. Epoch ``e`` trains on view ``e % views``, so that the original's logits of every view
can be computed once by the driver and memory-mapped by all trials (contract 9).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from search.dataset_file import SPLITS, Augment, DatasetMetadata, DatasetTensors, SplitName, read
from techniques.context import Batch
from techniques.head import Task

ImageFunction = Callable[[Tensor], Tensor]
"""Anything that maps normalised images ``(n, c, h, w)`` to logits ``(n, columns)`` (`techniques.head`)."""
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageData:
    """One dataset, memory-mapped; pickles as its path. ``labelled`` is whether its labels are looked at, if it has any."""

    path: Path
    tensors: DatasetTensors
    metadata: DatasetMetadata
    labelled: bool = True

    @staticmethod
    def open(path: Path, labelled: bool = True) -> ImageData:
        """Map a canonical dataset file.

        Raises:
            ValueError: the file is not one.
        """
        tensors, metadata = read(path)
        return ImageData(path, tensors if labelled else replace(tensors, labels=None), metadata, labelled)

    def split(self, name: SplitName) -> SplitView:
        """The images of one split, in the file's order.

        Raises:
            ValueError: no such split.
        """
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is unknown; there are {list(SPLITS)}")
        return SplitView(self, np.flatnonzero(self.tensors.split == SPLITS.index(name)))

    def __reduce__(self) -> tuple[Callable[[Path, bool], ImageData], tuple[Path, bool]]:
        return ImageData.open, (self.path, self.labelled)


@dataclass(frozen=True)
class SplitView:
    """Some images of a dataset; positions count from 0 within the view."""

    data: ImageData
    rows: Indices

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> npt.NDArray[Any] | None:
        """``(n,)`` int64, or ``(n, classes)`` of 0 and 1, or None for label-free data."""
        labels = self.data.tensors.labels
        if labels is None:
            return None
        chosen = labels[self.rows]
        # Yes or no to one label alone is a choice between two classes.
        return chosen[:, 0].astype(np.int64) if chosen.ndim > 1 and chosen.shape[1] == 1 else chosen

    @property
    def classes(self) -> int:
        """Number of classes; 0 for label-free data."""
        return len(self.data.metadata.class_names)

    def pixels(self, positions: Indices) -> npt.NDArray[np.uint8]:
        """Raw pixels ``(n, height, width, channels)``."""
        return self.data.tensors.images[self.rows[positions]]

    def images(self, positions: Indices) -> Tensor:
        """Normalised images ``(n, channels, height, width)`` float32."""
        return self.normalise(self.pixels(positions))

    def normalise(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Range, mean and std of the stated preprocessing on raw pixels."""
        scale, offset = self.data.metadata.preprocessing.scale_and_offset()
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return x.mul_(torch.from_numpy(scale)[:, None, None]).add_(torch.from_numpy(offset)[:, None, None])

    def batches(self, batch_size: int) -> Iterator[tuple[Indices, Tensor]]:
        """Positions and normalised images, in order."""
        for start in range(0, len(self), batch_size):
            positions = np.arange(start, min(start + batch_size, len(self)))
            yield positions, self.images(positions)

    def sample(self, count: int, seed: int) -> SplitView:
        """``count`` random images (all, if fewer) in the file's order; a larger sample of a seed contains the smaller ones."""
        order = np.random.default_rng([seed, 0x5A]).permutation(len(self))
        return SplitView(self.data, self.rows[np.sort(order[:count])])


@dataclass(frozen=True)
class CalibrationSource:
    """``n`` fixed training images without augmentation; every epoch is the same."""

    view: SplitView
    n: int
    seed: int = 0
    task: Task = "classes"

    def __len__(self) -> int:
        return min(self.n, len(self.view))

    def batches(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        """One pass in a fixed random order, with the labels that the task can learn from."""
        order = np.random.default_rng([self.seed, 0xCA]).permutation(len(self.view))[: self.n]
        labels = self.view.labels
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield Batch(self.view.images(chosen), _labels(labels, chosen, self.task))


@dataclass(frozen=True)
class TrainingSource:
    """Shuffled, augmented training images, with the original's logits on exactly these views where they are known.

    Attributes:
        augment: ``shift`` moves an image by up to a fourteenth of its height, ``shift_flip`` also mirrors half of them.
        teacher_logits: ``(views, n, classes)`` as `write_teacher_logits` wrote them.
        views: different augmentations per image; the epochs take turns.
        task: what the network decides; says which labels it can learn from.
    """

    view: SplitView
    seed: int = 0
    augment: Augment = "shift"
    teacher_logits: npt.NDArray[Any] | None = None
    views: int = 1
    task: Task = "classes"

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"views must be at least 1, got {self.views}")
        logits = self.teacher_logits
        if logits is not None and logits.shape[:2] != (self.views, len(self.view)):
            raise ValueError(
                f"teacher logits are {logits.shape[:2]} (views, images), the source has {(self.views, len(self.view))}"
            )

    def __len__(self) -> int:
        return len(self.view)

    def batches(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        """One pass; order from (seed, epoch), augmentation from (seed, epoch % views, image)."""
        order = np.random.default_rng([self.seed, 0x7E, epoch]).permutation(len(self.view))
        view_index, labels = epoch % self.views, self.view.labels
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            teacher = None
            if self.teacher_logits is not None:
                teacher = torch.from_numpy(np.asarray(self.teacher_logits[view_index, chosen], np.float32))
            yield Batch(self.view_images(view_index, chosen), _labels(labels, chosen, self.task), teacher)

    def view_images(self, view_index: int, positions: Indices) -> Tensor:
        """Images as view ``view_index`` shows them: normalised ``(n, channels, height, width)`` float32."""
        pixels = self.view.pixels(positions)
        if self.augment != "none":
            bits = _random_bits(self.seed, view_index, self.view.rows[positions])
            pixels = _shift(pixels, bits, flip=self.augment == "shift_flip")
        return self.view.normalise(pixels)


def write_teacher_logits(
    network: ImageFunction, source: TrainingSource, path: Path, batch: int = 256, dtype: npt.DTypeLike = np.float32
) -> None:
    """Run the original once over all views and write ``(views, n, classes)`` as .npy; the file appears only when complete.

    The caller switches the network to evaluation behaviour.
    """
    partial = path.with_suffix(".partial")
    target: np.memmap[Any, Any] | None = None
    for view_index in range(source.views):
        for start in range(0, len(source), batch):
            positions = np.arange(start, min(start + batch, len(source)))
            with torch.inference_mode():
                logits = network(source.view_images(view_index, positions)).numpy()
            if target is None:
                shape = (source.views, len(source), logits.shape[1])
                target = cast("np.memmap[Any, Any]", np.lib.format.open_memmap(partial, "w+", dtype=np.dtype(dtype), shape=shape))
            target[view_index, positions] = logits
    if target is None:
        raise ValueError("the source has no images")
    target.flush()
    os.replace(partial, path)


def open_teacher_logits(path: Path) -> npt.NDArray[Any]:
    """Memory-map what `write_teacher_logits` wrote, read-only."""
    return cast("npt.NDArray[Any]", np.load(path, mmap_mode="r", allow_pickle=False))


def _labels(labels: npt.NDArray[Any] | None, positions: Indices, task: Task) -> Tensor | None:
    """Labels for a loss; several of an image are none where the network decides for one class, and values have no labels."""
    if labels is None or task == "values" or (labels.ndim > 1 and task == "classes"):
        return None
    return torch.from_numpy(labels[positions])


def _random_bits(seed: int, view_index: int, images: Indices) -> npt.NDArray[np.uint64]:
    """64 random bits per image from (seed, view, image): splitmix64 (Steele et al. 2014, figure 16), vectorised."""
    key = np.random.SeedSequence([seed, view_index]).generate_state(1, np.uint64)[0]
    with np.errstate(over="ignore"):
        z = key + (images.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return cast("npt.NDArray[np.uint64]", z ^ (z >> np.uint64(31)))


def _shift(pixels: npt.NDArray[np.uint8], bits: npt.NDArray[np.uint64], flip: bool) -> npt.NDArray[np.uint8]:
    """Move each image by up to ``height // 14`` pixels (at least 1), filling with black; mirror where the lowest bit says so."""
    _, height, width, _ = pixels.shape
    reach = max(1, height // 14)
    span = np.uint64(2 * reach + 1)
    dy = ((bits >> np.uint64(8)) % span).astype(np.int64)
    dx = ((bits >> np.uint64(32)) % span).astype(np.int64)
    columns = np.arange(width)[None, :] + dx[:, None]
    if flip:
        mirrored = (bits & np.uint64(1)).astype(bool)
        columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
    rows = np.arange(height)[None, :] + dy[:, None]
    padded = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    return np.asarray(padded[np.arange(len(pixels))[:, None, None], rows[:, :, None], columns[:, None, :]])
