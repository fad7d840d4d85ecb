"""Which image serves what: the user's splits where given, else stratified and seeded ones of the server's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from search.dataset_file import SPLITS, SplitName
from service.intake.errors import IntakeError, ProblemLog

SHARES: dict[SplitName, float] = {"validation": 0.1, "selection": 0.1, "test": 0.1}
"""Of the images that a split is taken from."""
MAX_IMAGES: dict[SplitName, int] = {"validation": 5_000, "selection": 5_000, "test": 10_000}
MIN_IMAGES = 10
_TRAIN, _VALIDATION, _SELECTION, _TEST = range(4)


@dataclass(frozen=True)
class ChosenSplits:
    """``split`` uint8 ``(n,)`` indexes `SPLITS`; ``server_splits`` are those that were not the user's."""

    split: npt.NDArray[np.uint8]
    server_splits: tuple[SplitName, ...]

    @property
    def chosen_by(self) -> Literal["dataset", "server", "dataset and server"]:
        """Who chose, in the metadata's words."""
        if not self.server_splits:
            return "dataset"
        return "server" if len(self.server_splits) == 3 else "dataset and server"


def choose_splits(
    given: Sequence[SplitName | None] | None, labels: npt.NDArray[Any] | None, images: int, seed: int, log: ProblemLog
) -> ChosenSplits:
    """Complete the given splits.

    What is missing comes out of train, except that validation and selection are halves of one another where only one is
    given: held-out images stay held out. Without any split, or with only one for everything, the server chooses all.

    Raises:
        IntakeError: too few images, or splits without train.
    """
    if images < MIN_IMAGES:
        raise IntakeError("bad_data", f"{images} images are too few to search on; at least {MIN_IMAGES}", "dataset")
    split = _given(given, images, log)
    there = set(np.unique(split).tolist())
    if len(there) == 1:
        (only,) = there
        if only != _TRAIN:
            words = (
                f"all images are in {SPLITS[only]}, which leaves none to train on: the split was dropped, and the server chose one"
            )
            log.warn("split", f"{words}. The model may have been trained on what it is read on now")
        split[:], there = _TRAIN, {_TRAIN}
    if _TRAIN not in there:
        message = "splits are given, but none of the images is in train; add some, or leave the splits out to let the server choose"
        raise IntakeError("bad_data", message, "split")
    strata = _strata(labels, images)
    missing = [index for index in (_TEST, _VALIDATION, _SELECTION) if index not in there]
    for index in missing:
        other = {_VALIDATION: _SELECTION, _SELECTION: _VALIDATION}.get(index)
        if other in there:
            pool, share, most = np.flatnonzero(split == other), 0.5, images
        else:
            name = SPLITS[index]
            pool, share, most = np.flatnonzero(split == _TRAIN), SHARES[name], MAX_IMAGES[name]
        count = min(most, max(1, round(share * len(pool))))
        if len(pool) < 2:
            raise IntakeError("bad_data", f"too few images to take the {SPLITS[index]} split from", "split")
        split[_stratified(pool, strata[pool], count, seed + index)] = index
    return ChosenSplits(split, tuple(SPLITS[i] for i in sorted(missing)))


def _given(given: Sequence[SplitName | None] | None, images: int, log: ProblemLog) -> npt.NDArray[np.uint8]:
    if given is None:
        return np.zeros(images, np.uint8)
    unstated = sum(name is None for name in given)
    if 0 < unstated < images:
        log.warn("split", f"{unstated} images state no split and were put into train")
    return np.array([SPLITS.index(name) if name else _TRAIN for name in given], np.uint8)


def _strata(labels: npt.NDArray[Any] | None, images: int) -> npt.NDArray[np.int64]:
    """Images that should be spread alike: of one class, or of one combination of classes."""
    if labels is None:
        return np.zeros(images, np.int64)
    if labels.ndim == 1:
        return labels.astype(np.int64)
    _, inverse = np.unique(labels, axis=0, return_inverse=True)
    return inverse.reshape(-1).astype(np.int64)


def _stratified(pool: npt.NDArray[np.int64], strata: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """``count`` of the pool with every stratum in proportion: each one's shuffled members get evenly spaced ranks."""
    generator = np.random.default_rng(seed)
    ranks = np.empty(len(pool))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        # One random offset per stratum keeps the rounding fair among small classes.
        ranks[generator.permutation(members)] = (np.arange(len(members)) + generator.random()) / len(members)
    return pool[np.argsort(ranks, kind="stable")[:count]]
