"""Labels of channels: every channel that some layer makes is an atom, and atoms that can only go together are one class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

Ids = npt.NDArray[np.int64]
ALWAYS = 0
"""Label of a position that is there whatever is removed (the image, constants)."""


@dataclass(frozen=True)
class Classes:
    """The end of a propagation: atoms by class.

    Attributes:
        of_atom: class of every atom; atom and class 0 stand for what is always there.
        count: number of classes, that one included.
        reasons: class -> why it can never go.
    """

    of_atom: Ids
    count: int
    reasons: dict[int, str]

    def live(self, atoms: Ids) -> Ids:
        """Class per atom; 0 where the class can never go."""
        found = self.of_atom[atoms]
        return np.where(self.stuck()[found], ALWAYS, found)

    def stuck(self) -> npt.NDArray[np.bool_]:
        """Per class: whether it can never go."""
        stuck = np.zeros(self.count, np.bool_)
        stuck[[ALWAYS, *self.reasons]] = True
        return stuck


class Atoms:
    """Grows while labels are propagated: new atoms, pairs of them that go together, and those that can never go."""

    def __init__(self) -> None:
        self._count = 1
        self._pairs: list[tuple[Ids, Ids]] = []
        self._fixed: list[tuple[Ids, str]] = []
        self._known: Classes | None = None

    def new(self, count: int) -> Ids:
        """Labels of new atoms."""
        ids = np.arange(self._count, self._count + count, dtype=np.int64)
        self._count += count
        self._known = None
        return ids

    def join(self, first: Ids, second: Ids) -> None:
        """Positions that meet go together; both arrays have one shape, and what is always there joins nothing."""
        pairs = np.stack([np.asarray(first).reshape(-1), np.asarray(second).reshape(-1)])
        pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs > ALWAYS).all(axis=0)]
        if pairs.shape[1]:
            pairs = np.unique(pairs, axis=1)
            self._pairs.append((pairs[0], pairs[1]))
            self._known = None

    def fix(self, ids: Ids, reason: str) -> None:
        """These can never go; the first reason that an atom gets is the one that is told."""
        found = np.unique(ids[ids > ALWAYS])
        if len(found):
            self._fixed.append((found, reason))
            self._known = None

    def classes(self) -> Classes:
        """The classes as things stand."""
        if self._known is None:
            first = np.concatenate([p[0] for p in self._pairs]) if self._pairs else np.zeros(0, np.int64)
            second = np.concatenate([p[1] for p in self._pairs]) if self._pairs else np.zeros(0, np.int64)
            graph = coo_matrix((np.ones(len(first), np.int8), (first, second)), (self._count, self._count))
            count, of_atom = connected_components(graph, directed=False)
            found = of_atom.astype(np.int64)
            # Class 0 is that of atom 0, which nothing joins.
            swap = found[ALWAYS]
            found = np.where(found == swap, ALWAYS, np.where(found == ALWAYS, swap, found))
            reasons: dict[int, str] = {}
            for ids, reason in self._fixed:
                for index in np.unique(found[ids]).tolist():
                    reasons.setdefault(index, reason)
            self._known = Classes(found, int(count), reasons)
        return self._known


def ids_of(labels: Tensor) -> Ids:
    """Labels as integers: they travel through a graph's operations as float64, which every operation takes."""
    return labels.numpy().astype(np.int64)
