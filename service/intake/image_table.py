"""A dataset in memory between a reader and the canonical file, and what all readers do with labels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from search.dataset_file import Augment, SplitName
from search.preprocessing import Preprocessing
from service.intake.class_order import alike, other_order, sort_classes
from service.intake.errors import IntakeError, ProblemLog
from service.intake.limits import IntakeLimits

SPLIT_ALIASES: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "dev": "validation",
    "validation": "validation",
    "selection": "selection",
    "test": "test",
    "testing": "test",
}
_INDEX = re.compile(r"\+?([0-9]{1,9})(\.0*)?")
_SAVETXT = re.compile(r"-?[0-9]\.[0-9]{18}e[+-][0-9]{2,3}")
"""Every number, as numpy.savetxt writes it; each has one such text only."""
_OTHER_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+|inf)|nan", re.IGNORECASE)


@dataclass(frozen=True)
class DatasetOptions:
    """What the user may decide beside the preprocessing.

    Attributes:
        class_names: by class index, in the order of the model's outputs; empty takes them from the data.
        skip_bad: leave out corrupt images and bad rows with a warning instead of refusing the dataset.
        seed: of the splits that the server chooses.
        augment: what training may do to the images; ``shift_flip`` only where a mirrored image keeps its class.
    """

    class_names: tuple[str, ...] = ()
    skip_bad: bool = False
    seed: int = 0
    augment: Augment = "shift"


@dataclass(frozen=True)
class ReadRequest:
    """What a reader works with."""

    preprocessing: Preprocessing
    options: DatasetOptions
    limits: IntakeLimits
    log: ProblemLog

    def check_pixels(self, images: int) -> None:
        """Refuse more pixels than a dataset may have.

        Raises:
            IntakeError: with the size and the limit.
        """
        if images > self.limits.image_count:
            raise IntakeError("too_large", f"{images:,} images, at most {self.limits.image_count:,} are taken", "dataset")
        p = self.preprocessing
        size = images * p.height * p.width * p.channels
        if size > self.limits.dataset_bytes:
            message = (
                f"{images:,} images of {p.height}x{p.width}x{p.channels} are {size:,} bytes, at most {self.limits.dataset_bytes:,}"
            )
            raise IntakeError("too_large", message, "dataset")

    def check_groups(self, columns: int) -> None:
        """Refuse more group columns than a dataset may have.

        Raises:
            IntakeError: with the number and the limit.
        """
        if columns > self.limits.group_columns:
            words = f"{columns:,} columns beside labels and pixels, at most {self.limits.group_columns} are taken"
            raise IntakeError("too_large", words, "dataset")

    def check_texts(self, names: Collection[str], what: str) -> None:
        """Refuse names (of classes, of groups' values) that are too long, or too long in all.

        Raises:
            IntakeError: with the length and the limit.
        """
        longest = max(map(len, names), default=0)
        if longest > self.limits.text_length:
            words = f"{what}: one has {longest:,} characters, at most {self.limits.text_length:,} are taken"
            raise IntakeError("too_large", words, what)
        total = sum(len(name.encode()) for name in names)
        if total > self.limits.class_names_bytes:
            words = f"{what}: {total:,} bytes in all, at most {self.limits.class_names_bytes:,} are taken"
            raise IntakeError("too_large", words, what)


@dataclass(frozen=True)
class ImageTable:
    """Images ``(n, height, width, channels)`` uint8 with what is known of each; ``splits`` holds None where none is stated."""

    images: npt.NDArray[np.uint8]
    places: Sequence[str]
    labels: npt.NDArray[Any] | None = None
    class_names: tuple[str, ...] = ()
    splits: Sequence[SplitName | None] | None = None
    groups: dict[str, list[str]] = field(default_factory=dict)

    def keep(self, mask: npt.NDArray[np.bool_]) -> ImageTable:
        """Only the marked images."""
        if mask.all():
            return self
        chosen = [int(i) for i in np.flatnonzero(mask)]
        return ImageTable(
            self.images[chosen],
            [self.places[i] for i in chosen],
            None if self.labels is None else self.labels[chosen],
            self.class_names,
            None if self.splits is None else [self.splits[i] for i in chosen],
            {name: [values[i] for i in chosen] for name, values in self.groups.items()},
        )


def parse_split(text: str, place: str, log: ProblemLog) -> SplitName | None:
    """A split by name, alias or index 0..3; an unknown one is noted."""
    text = text.strip().lower()
    by_index: dict[str, SplitName] = {"0": "train", "1": "validation", "2": "selection", "3": "test"}
    split = SPLIT_ALIASES.get(text) or by_index.get(text)
    if split is None and text:
        log.error(place, f"split {text!r} is unknown; use train, validation, selection or test")
    return split


@dataclass(frozen=True)
class EncodedLabels:
    """Labels as class indices; ``usable`` marks the rows whose labels could be read."""

    labels: npt.NDArray[Any] | None
    class_names: tuple[str, ...]
    usable: npt.NDArray[np.bool_]


def encode_texts(
    texts: Sequence[Sequence[str]], places: Sequence[str], request: ReadRequest, several: bool, known: Sequence[str] = ()
) -> EncodedLabels:
    """Label texts, one or several per image, to class indices.

    Numbers are class indices as they stand, ``3.0`` as 3 (unless ``class_names`` or ``known`` say that they are names);
    names are sorted as text. ``known`` lists classes that exist whether or not an image has them.
    """
    texts = [[unicodedata.normalize("NFC", text) for text in row] for row in texts]
    names, index = _index_of({text for row in texts for text in row}, request, known)
    usable = np.ones(len(texts), np.bool_)
    rows: list[list[int]] = []
    for position, row in enumerate(texts):
        if not row and not several:
            request.log.bad(places[position], "has no label")
            usable[position] = False
        for text in row:
            if not 0 <= index.get(text, -1) < len(names):
                what = "is no class index (0, 1, 2, ...)" if class_number(text) == -1 else f"is none of the {len(names)} classes"
                request.log.bad(places[position], f"label {text!r} {what}")
                usable[position] = False
        rows.append([index[text] for text in row if 0 <= index.get(text, -1) < len(names)])
    if several:
        hot = np.zeros((len(texts), len(names)), np.uint8)
        for position, indices in enumerate(rows):
            hot[position, indices] = 1
        return EncodedLabels(hot, names, usable)
    return EncodedLabels(np.array([r[0] if r else 0 for r in rows], np.int64), names, usable)


def _index_of(every: set[str], request: ReadRequest, known: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, and the index that each label text stands for; negative, or missing, for what is no label."""
    stated = tuple(unicodedata.normalize("NFC", name) for name in request.options.class_names)
    if len(set(stated)) < len(stated):
        raise IntakeError("bad_option", "class_names has a name twice, in two forms of Unicode", "class_names")
    numbers = {text: class_number(text) for text in every}
    if every and not known and not every & set(stated) and None not in numbers.values():
        index = {text: number for text, number in numbers.items() if number is not None}
        if not stated:
            _tell_first_number(sorted(set(index.values()) - {-1}), request)
        return stated or _numbered(max(index.values()) + 1, request), index
    missing = set() if known else {text for text in every if text.lower() == "nan"}  # what pandas makes of an empty cell
    names = stated or sort_classes((every - missing) | set(known))
    for words in () if stated else (other_order(names), alike(names)):
        if words:
            request.log.note("classes", words)
    return names, {name: i for i, name in enumerate(names)}


def encode_numbers(values: npt.NDArray[Any], places: Sequence[str], request: ReadRequest) -> EncodedLabels:
    """Numeric labels ``(n,)``, or ``(n, classes)`` of 0 and 1, to class indices; each bad one is noted."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        return _encode_hot(values, places, request)
    if values.ndim != 1 or values.dtype.kind not in "iufb":
        raise IntakeError("bad_data", f"labels are {values.dtype} {values.shape}; need integers (n,) or 0/1 (n, classes)", "labels")
    whole = (
        np.isfinite(values) & (np.mod(np.nan_to_num(values), 1) == 0) if values.dtype.kind == "f" else np.ones(len(values), bool)
    )
    numbers = np.where(whole, np.nan_to_num(values), -1).astype(np.int64)
    fits = numbers < (len(request.options.class_names) or request.limits.class_count)
    usable = whole & (numbers >= 0) & fits
    top = int(numbers[usable].max()) + 1 if usable.any() else 1
    names = request.options.class_names or _numbered(top, request)
    if not request.options.class_names:
        _tell_first_number(np.unique(numbers[usable]).tolist(), request)
    for position in np.flatnonzero(~usable).tolist():
        what = f"label {values[position]} is no class index in 0..{len(names) - 1}"
        request.log.bad(places[position], what)
    return EncodedLabels(np.where(usable, numbers, 0), names, usable)


def _encode_hot(values: npt.NDArray[Any], places: Sequence[str], request: ReadRequest) -> EncodedLabels:
    stated = request.options.class_names
    if stated and values.shape[1] != len(stated):
        message = f"labels have {values.shape[1]} columns and class_names {len(stated)} names"
        raise IntakeError("bad_option", message, "class_names")
    names = stated or _numbered(values.shape[1], request)
    usable = ((values == 0) | (values == 1)).all(axis=1)
    for position in np.flatnonzero(~usable).tolist():
        request.log.bad(places[position], "labels of several classes must be 0 or 1")
    hot = np.where(usable[:, None], values, 0).astype(np.uint8)
    if (hot[usable].sum(axis=1) == 1).all():
        # One-hot rows say no more than an index does.
        return EncodedLabels(hot.argmax(axis=1).astype(np.int64), names, usable)
    return EncodedLabels(hot, names, usable)


def _numbered(count: int, request: ReadRequest) -> tuple[str, ...]:
    if count > request.limits.class_count:
        words = f"class index {count - 1} is above the limit of {request.limits.class_count} classes"
        raise IntakeError("bad_data", words, "labels")
    return tuple(str(i) for i in range(count))


def class_number(text: str) -> int | None:
    """The index that a label such as ``3`` or ``3.0`` is; -1 for a number that is none; None for what is no number.

    Python would read ``1_0``, ``1e1`` and digits of other scripts as numbers, too: names that people give to classes of their
    own, which would become one with class 10.
    """
    if plain := _INDEX.fullmatch(text):
        return int(plain[1])
    if _SAVETXT.fullmatch(text):
        number = float(text)
        return int(number) if 0 <= number < 1e9 and number.is_integer() else -1
    return -1 if _OTHER_NUMBER.fullmatch(text) else None


def _tell_first_number(present: Sequence[int], request: ReadRequest) -> None:
    """Labels 1, 2, ..., n: most likely counted from 1, while outputs count from 0."""
    if len(present) > 1 and list(present) == list(range(1, len(present) + 1)):
        what = f"run from 1 to {present[-1]}, and none is 0: the outputs of a network count from 0, so output 0 has no image"
        request.log.note("labels", f"{what}. If the model's first output stands for label 1, subtract 1 from the labels")
