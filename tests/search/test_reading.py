from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn

from search.errors import BaselineError
from search.evaluation.accuracy import check_baseline, drop_points, images_needed, score
from search.evaluation.reading import Reading, choose_reading
from search.preprocessing import Preprocessing
from techniques.head import Head, Task
from techniques.lift import from_module
from techniques.network import Network

RANDOM = np.random.default_rng(3)
STATED = Preprocessing(8, 8, 1, mean=(0.3,), std=(0.4,))
IMAGES = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """One convolution and an end; a shift moves the outputs to one side."""

    def __init__(self, outputs: int, end: Any, shift: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.end, self.shift = nn.Conv2d(1, outputs, 8), end, shift

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.end(self.conv(x).flatten(1) + self.shift)
        return y


def small(outputs: int, end: Any = lambda y: y, shift: float = 0.0) -> Network:
    return from_module(Small(outputs, end, shift).eval(), (1, 8, 8)).eval()


def read(network: Network, metric: str = "agreement", labels: Any = None) -> Reading:
    return choose_reading(network, metric, labels, lambda reading: reading.logits(network(IMAGES)))


@dataclass(frozen=True)
class Case:
    id: str
    network: Network
    task: Task
    metric: str = "agreement"
    labels: Any = None
    note: str = ""


HOT = np.zeros((200, 4), np.uint8)
ONES = np.zeros(200, np.int64)
CASES = [
    Case("classes", small(4), "classes"),
    Case("labels given for each class", small(4), "labels", "macro_f1", HOT),
    Case("a softmax decides for one class", small(4, lambda y: y.softmax(1)), "classes", "top1", HOT),
    Case("sigmoids decide each", small(4, torch.sigmoid), "labels"),
    Case("single logit", small(1), "classes"),
    Case("one number, labelled", small(1, lambda y: y.squeeze(1)), "classes", "agreement", ONES),
    Case("one number, label-free", small(1, lambda y: y.squeeze(1)), "values", note="gives one number"),
    Case("one probability", small(1, lambda y: y.sigmoid().squeeze(1)), "classes"),
    Case("always on one side", small(1, shift=40.0), "values", note=r"decides the same on 100\.0%"),
    Case("map", small(8, lambda y: y.reshape(-1, 2, 2, 2)), "values", note=r"shape \(2, 2, 2\)"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_outputs_are_read_as_what_they_mean(case: Case) -> None:
    reading = read(case.network, case.metric, case.labels)
    assert reading.task == case.task
    if case.note:
        assert re.search(case.note, reading.note)
        assert "relative error" in reading.note
    else:
        assert not reading.note


def test_a_map_has_no_labels() -> None:
    with pytest.raises(BaselineError, match=r"values of shape \(2, 2, 2\).*AGREEMENT"):
        read(small(8, lambda y: y.reshape(-1, 2, 2, 2)), "top1", ONES)


def single(logits: np.ndarray) -> np.ndarray:
    return Reading("top1", Head((1,))).logits(logits.astype(np.float32)[:, None])


def test_a_single_logit_is_decided_at_zero() -> None:
    labels = RANDOM.integers(0, 2, 300)
    z = (labels * 2 - 1) * 1.0 + RANDOM.normal(0, 1.5, 300)
    rows = single(z)
    assert score(rows, labels, "top1").value == pytest.approx(((z > 0) == labels).mean())
    assert score(rows, labels, "auroc").value == pytest.approx(roc_auc_score(labels, z), abs=1e-6)
    assert score(rows, labels, "macro_f1").value == pytest.approx(f1_score(labels, z > 0, average="macro"))
    probabilities = Reading("top1", Head((), "sigmoid")).logits((1 / (1 + np.exp(-z))).astype(np.float32))
    assert score(probabilities, labels, "top1").value == score(rows, labels, "top1").value


def test_agreement_of_a_single_logit_tells_a_broken_network() -> None:
    z = RANDOM.normal(0, 1, 500)
    teacher = single(z)
    assert score(teacher, None, "agreement", teacher).value == 1.0
    assert score(single(z + 0.001), None, "agreement", teacher).value > 0.98
    for broken in (single(-z), single(np.ones(500)), single(RANDOM.normal(0, 1, 500))):
        assert score(broken, None, "agreement", teacher).value < 0.6


def test_agreement_of_labels_counts_what_either_network_says_yes_to() -> None:
    teacher = np.where(np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]), 3.0, -3.0).astype(np.float32)
    other = np.where(np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]), 3.0, -3.0).astype(np.float32)
    result = score(other, None, "agreement", teacher, "labels")
    assert result.value == pytest.approx((0.5 + 0.5 + 1 + 0) / 4)
    original = score(teacher, None, "agreement", teacher, "labels")
    assert original.value == 1.0
    estimate, low, high = drop_points(original, result, None)
    assert estimate == pytest.approx(50.0)
    assert low < estimate < high
    silent = np.full((400, 20), -3.0, np.float32)
    taught = np.where(RANDOM.random((400, 20)) < 0.1, 3.0, -3.0).astype(np.float32)
    assert score(silent, None, "agreement", taught, "labels").value < 0.2


def test_fidelity_is_one_minus_the_relative_error() -> None:
    teacher = RANDOM.normal(0, 1, (50, 300)).astype(np.float32)
    assert score(teacher, None, "agreement", teacher, "values").value == 1.0
    assert score(teacher * 0.9, None, "agreement", teacher, "values").value == pytest.approx(0.9, abs=0.01)
    assert score(teacher * 0, None, "agreement", teacher, "values").value == pytest.approx(0.0, abs=0.05)
    assert score(-teacher, None, "agreement", teacher, "values").value == 0.0
    lost = teacher.copy()
    lost[:10] = np.nan
    assert score(lost, None, "agreement", teacher, "values").value == pytest.approx(0.8)


def test_outputs_near_zero_count_by_the_size_of_the_others() -> None:
    teacher = np.array([[1e-9], [2.0], [-2.0], [2.0]], np.float32)
    moved = teacher + np.array([[0.01], [0], [0], [0]], np.float32)
    assert score(moved, None, "agreement", teacher, "values").value > 0.99


@dataclass(frozen=True)
class Few:
    id: str
    images: int
    hits: int
    said: str


@pytest.mark.parametrize(
    "few",
    [
        Few("two, both right", 2, 2, "too few to tell it from chance"),
        Few("twelve, one wrong", 12, 11, "too few to tell it from chance"),
        Few("many, half right", 400, 205, "near chance"),
        Few("two, one right", 2, 1, "near chance"),
    ],
    ids=lambda few: few.id,
)
def test_few_images_are_no_network_near_chance(few: Few) -> None:
    labels = np.arange(few.images) % 2
    guess = np.where(np.arange(few.images) < few.hits, labels, 1 - labels)
    result = score(np.eye(2, dtype=np.float32)[guess] * 9, labels)
    with pytest.raises(BaselineError, match=few.said):
        check_baseline(result, labels, None, STATED)


def test_so_many_images_are_enough_as_it_says() -> None:
    for images, right in ((2, 1.0), (12, 0.9)):
        needed = images_needed(right, np.arange(images) % 2, "top1")
        assert images_needed(right, np.arange(needed + needed % 2) % 2, "top1") == 0
        assert needed > images


def test_labels_of_one_class_are_told() -> None:
    labels = np.full(50, 3)
    result = score(np.eye(5, dtype=np.float32)[labels], labels)
    with pytest.raises(BaselineError, match="all 50 validation images have the label 3"):
        check_baseline(result, labels, None, STATED)


def test_what_is_known_of_the_data_is_told_with_what_to_check() -> None:
    labels = np.arange(300) % 3
    wrong = score(np.eye(3, dtype=np.float32)[RANDOM.integers(0, 3, 300)], labels)
    with pytest.raises(BaselineError, match=r"near chance.*class indices are the model's\. 0 is '1', 1 is '10'"):
        check_baseline(wrong, labels, None, STATED, ["0 is '1', 1 is '10'"])
