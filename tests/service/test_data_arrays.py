"""Arrays as people save them: names of their own, one array for each split, and what is not read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.dataset_file import read
from tests.service.test_data_kinds import labels_of, words
from tests.service.test_dataset_intake import arrays, npz_of, refused, take_in

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
