"""Arrays as people save them: labels, pixels and shapes of every kind, names of their own, one array for each split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.dataset_file import read
from search.errors import InvalidSpecError
from search.preprocessing import Preprocessing
from tests.service.datasets import arrays, labels_of, npz_of, pixels_of, refused, take_in, words

IMAGES, CLASSES = arrays()["images"], arrays()["labels"]


def parts(images: str = "", labels: str = "", **more: Any) -> dict[str, Any]:
    """Ten images, or ten labels, for each named part: the first named part has the first ten."""
    named = {f"x_{part}": IMAGES[10 * i : 10 * i + 10] for i, part in enumerate(images.split())}
    return {**named, **{f"y_{part}": CLASSES[10 * i : 10 * i + 10] for i, part in enumerate(labels.split())}, **more}


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev"])
def test_arrays_of_each_split_keep_all_that_lies_beside_them(validation: str, tmp_path: Path) -> None:
    every = f"train {validation} test"
    sites, cameras = np.repeat(["north", "south"], 15), np.arange(30) % 3
    given = parts(every, every, class_names=np.array(list("wxyz")), groups=sites, group_camera=cameras)
    facts = take_in(npz_of(tmp_path / "d.npz", **dict(reversed(given.items()))), "npz")
    assert facts.class_names == ("w", "x", "y", "z")
    assert facts.group_values == {"groups": ("north", "south"), "camera": ("0", "1", "2")}
    tensors, _ = read(facts.path)
    assert tensors.groups is not None
    assert (tensors.images[..., 0] == IMAGES[:30]).all()
    assert labels_of(facts) == CLASSES[:30].tolist()
    columns = dict(zip(facts.group_values, tensors.groups.T.tolist(), strict=True))
    assert columns == {"groups": [0] * 15 + [1] * 15, "camera": cameras.tolist()}
    assert facts.split_counts == {"train": 10, "validation": 5, "selection": 5, "test": 10}


@dataclass(frozen=True)
class Unfit:
    """Arrays that do not go together, the one to blame, and words of the refusal."""

    arrays: dict[str, Any]
    field: str
    says: str


UNFIT = {
    "no labels of train": Unfit(parts("train test", "test"), "x_train", "no 'y_train'"),
    "no labels of test": Unfit(parts("train test", "train"), "x_test", "no 'y_test' beside 'x_test'"),
    "no labels of validation": Unfit(parts("train val test", "train"), "x_val", "no 'y_val' beside 'x_val'"),
    "no images of test": Unfit(parts("train", "train test"), "y_test", "no 'x_test'"),
    "labels of train beside all images": Unfit({**parts(labels="train"), "images": IMAGES}, "images", "beside y_train"),
    "labels of all": Unfit({**parts("train test"), "labels": CLASSES[:20]}, "labels", "'labels' beside x_train, x_test"),
    "images twice": Unfit({**parts("train test", "train test"), "images": IMAGES}, "images", "beside x_train"),
    "splits twice": Unfit(parts("train test", "train test", split=np.zeros(20, int)), "split", "beside x_train"),
    "fewer labels than images": Unfit(
        {**parts("train test", "train test"), "y_train": CLASSES[:9]}, "y_train", "shape (9,) beside 'x_train'"
    ),
    "groups of train only": Unfit(
        parts("train test", "train test", group_site=np.zeros(10, int)), "group_site", "beside 20 images"
    ),
}


@pytest.mark.parametrize("case", UNFIT.values(), ids=UNFIT.keys())
def test_arrays_that_do_not_go_together_are_refused_by_name(case: Unfit, tmp_path: Path) -> None:
    error = refused(npz_of(tmp_path / "d.npz", **case.arrays), "npz")
    assert (error.code, error.field) == ("bad_data", case.field)
    assert case.says in error.message


UNREAD = {
    "labels by another name": (
        parts("train test", train_labels=CLASSES[:10]),
        "not read: train_labels; labels are read from 'y_train'",
    ),
    "labels in capitals": (parts("train test", Y_train=CLASSES[:10]), "not read: Y_train; labels are read from 'y_train'"),
    "a part of no split": (parts("train test holdout", "train test holdout"), "not read: x_holdout, y_holdout"),
    "anything": (parts("train test", "train test", weights=np.ones(20)), "not read: weights"),
    "labels twice": (arrays(y=CLASSES), "not read: y"),
    "images twice": (arrays(x=IMAGES), "not read: x"),
    "groups by another name": (arrays(grouping=CLASSES), "not read: grouping"),
}


@pytest.mark.parametrize(("given", "says"), UNREAD.values(), ids=UNREAD.keys())
def test_every_array_that_is_not_read_is_told(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    facts = take_in(npz_of(tmp_path / "d.npz", **given), "npz")
    assert any(says in note for note in facts.notes), words(facts)
    assert facts.has_labels == ("labels are read" not in says)


# --- labels


@dataclass(frozen=True)
class Labels:
    """Labels of twelve images as they come; ``right`` class indices, or words of the refusal."""

    given: Any
    right: list[int] | None = None
    says: str = ""


TWELVE = np.arange(12) % 3
LABELS = {
    "column": Labels(TWELVE[:, None], TWELVE.tolist()),
    "floats": Labels(TWELVE.astype(np.float32), TWELVE.tolist()),
    "texts of floats": Labels(np.array([f"{i}.0" for i in TWELVE]), TWELVE.tolist()),
    "texts of numbers in a column": Labels(np.array([[str(i)] for i in TWELVE]), TWELVE.tolist()),
    "bytes": Labels(np.array([b"%d" % i for i in TWELVE]), TWELVE.tolist()),
    "one-hot": Labels(np.eye(3)[TWELVE], TWELVE.tolist()),
    "booleans": Labels(np.arange(12) % 2 == 1, [0, 1] * 6),
    "from one": Labels(TWELVE + 1, (TWELVE + 1).tolist(), "subtract 1"),
    "texts from one": Labels(np.array([str(i + 1) for i in TWELVE]), (TWELVE + 1).tolist(), "subtract 1"),
    "minus one": Labels(np.where(TWELVE == 0, -1, 1), None, "label -1 is no class index"),
    "texts of minus one": Labels(np.where(TWELVE == 0, "-1", "1"), None, "label '-1' is no class index"),
    "not a number": Labels(np.where(TWELVE == 0, np.nan, 1), None, "label nan is no class index"),
    "halves": Labels(TWELVE / 2, None, "label 0.5 is no class index"),
    "texts of savetxt": Labels(np.array([f"{i:.18e}" for i in TWELVE]), TWELVE.tolist()),
    "texts of halves": Labels(np.where(TWELVE == 0, "0.5", "1"), None, "label '0.5' is no class index"),
    "texts of halves of savetxt": Labels(np.where(TWELVE == 0, f"{0.5:.18e}", "1"), None, "e-01' is no class index"),
    "texts too large": Labels(np.where(TWELVE == 0, "1234567890", "1"), None, "label '1234567890' is no class index"),
    "names that Python reads as numbers": Labels(np.array(["10", "1_0", "1e1"])[TWELVE], TWELVE.tolist()),
    "names with digits of another script": Labels(np.array(["1", "\u0661"])[TWELVE % 2], (TWELVE % 2).tolist()),
    "texts that miss": Labels(np.where(TWELVE == 0, "nan", np.where(TWELVE == 1, "cat", "dog")), None, "'nan'"),
    "one class": Labels(np.full(12, 2), None, "one class, '2'"),
    "one class by name": Labels(np.full(12, "cat"), None, "one class, 'cat'"),
    "too few": Labels(TWELVE[:11], None, "beside 12 images"),
    "numbers of colours": Labels(np.zeros((12, 3, 3)), None, "need integers"),
}


@pytest.mark.parametrize("case", LABELS.values(), ids=LABELS.keys())
def test_labels_of_arrays(case: Labels, tmp_path: Path) -> None:
    path = npz_of(tmp_path / "d.npz", images=arrays(12)["images"], labels=case.given)
    if case.right is None:
        error = refused(path, "npz")
        assert case.says in " ".join([error.message, *map(str, error.problems)])
        return
    facts = take_in(path, "npz")
    assert labels_of(facts) == case.right
    assert case.says in words(facts)


def test_arrays_under_names_of_their_own_are_told(tmp_path: Path) -> None:
    data = arrays()
    facts = take_in(npz_of(tmp_path / "a.npz", images=data["images"], targets=data["labels"]), "npz")
    assert not facts.has_labels
    assert "arrays that are not read: targets; labels are read from" in words(facts)
    np.savez(tmp_path / "b.npz", data["images"], data["labels"])
    assert "images=..., labels=..." in refused(tmp_path / "b.npz", "npz").message


# --- values of pixels


@dataclass(frozen=True)
class Values:
    """Images of one kind of number; ``right`` is the brightest pixel once read, or words of the refusal."""

    make: Callable[[Any], Any]
    right: int | str
    says: str = ""
    range: str = "0..1"


VALUES = {
    "bytes": Values(lambda x: x, 250),
    "0 and 1 in bytes": Values(lambda x: x % 2, 255, "0 and 1 only"),
    "0 and 1 in integers": Values(lambda x: (x % 2).astype(np.int64), 255, "0 and 1 only"),
    "0 and 1 in booleans": Values(lambda x: x % 2 == 1, 255),
    "0 and 1 for 0..255": Values(lambda x: x % 2, "were they meant as 0..1", range="0..255"),
    "0 and 1 for -1..1": Values(lambda x: x % 2, 255, "0 and 1 only", range="-1..1"),
    "black": Values(lambda x: x * 0, 0),
    "floats to 1": Values(lambda x: (x / 255).astype(np.float32), 250),
    "floats to 1 for 0..255": Values(lambda x: x / 250, 255, "multiplied by 255", range="0..255"),
    "floats to 255": Values(lambda x: x.astype(np.float64), 250),
    "floats a little over 1": Values(lambda x: x / 240, "outside 0..255 (or 0..1)"),
    "divided twice": Values(lambda x: x / 250 / 255, 1, "divided by 255 twice"),
    "-1 to 1": Values(lambda x: x / 125 - 1, "outside 0..255"),
    "4 bits": Values(lambda x: x % 17, 16, "brightest pixel is 16"),
    "16 bits": Values(lambda x: x.astype(np.uint16) * 257, "divide by 257"),
    "integers": Values(lambda x: x.astype(np.int16), 250),
    "below 0": Values(lambda x: x.astype(np.int32) - 9, "outside 0..255"),
}


@pytest.mark.parametrize("case", VALUES.values(), ids=VALUES.keys())
def test_values_of_pixels(case: Values, tmp_path: Path) -> None:
    data = arrays()
    images = data["images"].copy()
    images[0, 0, 0] = 250
    path = npz_of(tmp_path / "d.npz", images=case.make(images), labels=data["labels"])
    stated = Preprocessing(4, 4, 1, range=case.range)  # type: ignore[arg-type]
    if isinstance(case.right, str):
        error = refused(path, "npz", preprocessing=stated)
        assert case.right in " ".join([error.message, *map(str, error.problems)])
        return
    facts = take_in(path, "npz", stated)
    assert pixels_of(facts).max() == case.right
    assert (case.says in words(facts)) if case.says else not any(p.place == "images" for p in facts.problems)


def test_splits_of_two_scales_are_refused(tmp_path: Path) -> None:
    data = arrays()
    path = npz_of(
        tmp_path / "d.npz", x_train=data["images"] / 255, y_train=data["labels"], x_test=data["images"], y_test=data["labels"]
    )
    assert "not of one scale" in refused(path, "npz").message


@dataclass(frozen=True)
class Shape:
    shape: tuple[int, ...]
    stated: Preprocessing
    right: tuple[int, ...] | str


SHAPES = {
    "grey": Shape((12, 5, 6), Preprocessing(5, 6, 1), (5, 6, 1)),
    "grey for RGB": Shape((12, 5, 6), Preprocessing(5, 6, 3), (5, 6, 3)),
    "nhwc": Shape((12, 5, 6, 3), Preprocessing(5, 6, 3), (5, 6, 3)),
    "nchw": Shape((12, 3, 5, 6), Preprocessing(5, 6, 3, layout="nchw"), (5, 6, 3)),
    "nchw unsaid": Shape((12, 3, 5, 6), Preprocessing(5, 6, 3), "is it nchw?"),
    "nhwc called nchw": Shape((12, 5, 6, 3), Preprocessing(5, 6, 3, layout="nchw"), "is it nhwc?"),
    "grey nhwc called nchw": Shape((12, 5, 6, 1), Preprocessing(5, 6, 1, layout="nchw"), "is it nhwc?"),
    "three columns": Shape((12, 3, 8, 3), Preprocessing(8, 3, 3, resize="stretch"), "nchw"),
    "three rows": Shape((12, 3, 8, 3), Preprocessing(3, 8, 3), (3, 8, 3)),
    "flat": Shape((12, 30), Preprocessing(5, 6, 1), "need numbers (n, h, w)"),
    "four channels": Shape((12, 5, 6, 4), Preprocessing(5, 6, 3), "shape (5, 6, 4) instead of (5, 6, 3)"),
}


@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_of_arrays(case: Shape, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, case.shape, np.uint8)
    path = npz_of(tmp_path / "d.npz", images=images, labels=np.arange(12) % 2)
    if isinstance(case.right, str):
        error = refused(path, "npz", preprocessing=case.stated)
        assert case.right in " ".join([error.message, *map(str, error.problems)])
    else:
        assert pixels_of(take_in(path, "npz", case.stated)).shape[1:] == case.right


@dataclass(frozen=True)
class Units:
    mean: float
    std: float
    range: str
    wrong: tuple[str, ...]


UNITS = {
    "ImageNet in 0..255 for 0..1": Units(123.675, 58.395, "0..1", ("mean", "std")),
    "ImageNet in 0..255 for -1..1": Units(123.675, 58.395, "-1..1", ("mean", "std")),
    "mean alone": Units(123.675, 0.229, "0..1", ("mean",)),
    "std alone": Units(0.485, 58.395, "0..1", ("std",)),
    "ImageNet in 0..1 for 0..255": Units(0.485, 0.229, "0..255", ("mean", "std")),
    "std in 0..1 for 0..255": Units(123.675, 0.229, "0..255", ("std",)),
    "ImageNet in 0..1": Units(0.485, 0.229, "0..1", ()),
    "ImageNet in 0..255": Units(123.675, 58.395, "0..255", ()),
    "lite": Units(127, 128, "0..255", ()),
    "to 0..255 by std": Units(0, 1 / 255, "0..1", ()),
    "nothing": Units(0, 1, "0..255", ()),
    "dark": Units(0.9, 12, "0..255", ()),
}


@pytest.mark.parametrize("case", UNITS.values(), ids=UNITS.keys())
def test_mean_and_std_are_in_the_units_of_the_range(case: Units) -> None:
    stated = Preprocessing(4, 4, 3, mean=(case.mean,), std=(case.std,), range=case.range)  # type: ignore[arg-type]
    found = {v.field: v.description for v in stated.violations()}
    assert set(found) == {f"preprocessing.{name}" for name in case.wrong}
    assert all("255" in words for words in found.values())
    assert Preprocessing.from_json(stated.to_json()) == stated  # what is stored already stays readable
    if case.wrong:
        with pytest.raises(InvalidSpecError, match="units of range"):
            stated.validated()
