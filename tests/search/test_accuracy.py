from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from search.dataset_file import DatasetMetadata, DatasetTensors, write
from search.errors import BaselineError, SearchError
from search.evaluation.accuracy import (
    check_baseline,
    drop_points,
    evaluate,
    near_chance,
    paired_drop_points,
    score,
)
from search.evaluation.data import ImageData
from search.evaluation.metrics.base import wilson_interval
from search.limits import upper_drop_points
from search.preprocessing import Preprocessing

RANDOM = np.random.default_rng(0)
STATED = Preprocessing(8, 8, 1, mean=(0.3,), std=(0.4,))


def logits_for(labels: np.ndarray, accuracy: float, classes: int = 10, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (len(labels), classes))
    hit = generator.random(len(labels)) < accuracy
    guess = np.where(hit, labels, (labels + generator.integers(1, classes, len(labels))) % classes)
    logits[np.arange(len(labels)), guess] += 8
    return logits.astype(np.float32)


LABELS = RANDOM.integers(0, 10, 1000)
LOGITS = logits_for(LABELS, 0.8)


def test_top1_and_top5():
    best = LOGITS.argsort(axis=1)[:, ::-1]
    top1, top5 = score(LOGITS, LABELS, "top1"), score(LOGITS, LABELS, "top5")
    assert top1.value == pytest.approx((best[:, 0] == LABELS).mean())
    assert top5.value == pytest.approx((best[:, :5] == LABELS[:, None]).any(1).mean())
    assert (top1.correct == (best[:, 0] == LABELS)).all()
    assert top1.interval == wilson_interval(int(top1.correct.sum()), 1000)


def test_macro_f1_and_auroc_are_scikit_learns():
    exp = np.exp(LOGITS - LOGITS.max(1, keepdims=True))
    f1, auroc = score(LOGITS, LABELS, "macro_f1"), score(LOGITS, LABELS, "auroc")
    assert f1.value == pytest.approx(f1_score(LABELS, LOGITS.argmax(1), average="macro"))
    assert auroc.value == pytest.approx(roc_auc_score(LABELS, exp / exp.sum(1, keepdims=True), multi_class="ovr"), abs=1e-6)
    for result in (f1, auroc):
        assert result.interval[0] < result.value < result.interval[1]
        assert result.interval[1] - result.interval[0] < 0.1


def test_auroc_of_labels_that_are_decided_one_by_one_takes_each_logit_as_it_is():
    """Of several sigmoids with one label per image, the file's own probabilities are what others compute it from."""
    probabilities = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    wanted = np.mean([roc_auc_score(column == LABELS, probabilities[:, column]) for column in range(LOGITS.shape[1])])
    assert score(LOGITS, LABELS, "auroc", task="labels").value == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("metric", ["macro_f1", "auroc"])
def test_interval_is_as_wide_as_a_bootstraps(metric: str):
    labels = RANDOM.choice(10, 1000, p=np.arange(1, 11) / 55)
    logits, other = logits_for(labels, 0.8, seed=7), logits_for(labels, 0.7, seed=8)
    values, drops = [], []
    for _ in range(150):
        rows = RANDOM.integers(0, 1000, 1000)
        first, second = (score(x[rows], labels[rows], metric).value for x in (logits, other))  # type: ignore[arg-type]
        values.append(first)
        drops.append(first - second)
    result, worse = score(logits, labels, metric), score(other, labels, metric)  # type: ignore[arg-type]
    _, low, high = drop_points(result, worse, labels)
    assert result.interval[1] - result.interval[0] == pytest.approx(2 * 1.96 * np.std(values), rel=0.25)
    assert high - low == pytest.approx(100 * 2 * 1.96 * np.std(drops), rel=0.25)


def test_several_labels_per_image():
    hot = RANDOM.integers(0, 2, (400, 6))
    logits = (np.where(RANDOM.random((400, 6)) < 0.9, hot, 1 - hot) * 4 - 2 + RANDOM.normal(0, 0.1, (400, 6))).astype(np.float32)
    best = logits.argmax(1)
    assert score(logits, hot, "top1").value == pytest.approx(hot[np.arange(400), best].mean())
    assert score(logits, hot, "macro_f1").value == pytest.approx(f1_score(hot, logits > 0, average="macro"))
    assert score(logits, hot, "auroc").value == pytest.approx(roc_auc_score(hot, logits, average="macro"))


def test_agreement_needs_no_labels():
    teacher = logits_for(LABELS, 0.9, seed=1)
    assert score(LOGITS, None, "agreement", teacher).value == pytest.approx((LOGITS.argmax(1) == teacher.argmax(1)).mean())
    with pytest.raises(SearchError, match="none are given"):
        score(LOGITS, LABELS, "agreement")
    with pytest.raises(SearchError, match="use metric 'agreement'"):
        score(LOGITS, None, "top1")


def test_outputs_that_are_not_finite_are_never_hits():
    logits = LOGITS.copy()
    logits[:500] = np.nan
    for metric in ("top1", "top5"):
        assert not score(logits, LABELS, metric).correct[:500].any()  # type: ignore[arg-type]


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_no_class_and_wrong_for_each(nothing: float):
    broken = np.arange(len(LABELS)) % 3 == 0
    logits = np.where(broken[:, None], np.float32(nothing), LOGITS)
    guess = np.where(broken, -1, LOGITS.argmax(1))
    f1 = f1_score(LABELS, guess, average="macro", labels=np.unique(LABELS), zero_division=0)
    assert score(logits, LABELS, "macro_f1").value == pytest.approx(f1)
    tags = (np.arange(len(LABELS))[:, None] + np.arange(3)) % 2
    several = np.where(broken[:, None], np.float32(nothing), np.where(tags, 1, -1).astype(np.float32))
    assert score(several, tags, "macro_f1").value == pytest.approx(
        f1_score(tags, (several > 0) & ~broken[:, None], average="macro")
    )
    chances, won = np.where(broken[:, None], 0.0, log_softmax(LOGITS, axis=1)), []
    for c, yes in enumerate((LABELS[:, None] == np.arange(10)).T):
        right = chances[yes & ~broken, c][:, None] > chances[~yes & ~broken, c]
        won.append(right.sum() / (yes.sum() * (~yes).sum()))
    assert score(logits, LABELS, "auroc").value == pytest.approx(np.mean(won), abs=1e-4)
    assert score(np.full_like(LOGITS, nothing), LABELS, "macro_f1").value == 0.0


def test_labels_of_another_model_are_told():
    with pytest.raises(SearchError, match="10 classes and the network 5 outputs"):
        score(LOGITS[:, :5], LABELS)


def test_wilson_interval_of_known_values():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@dataclass(frozen=True)
class Pair:
    lost: int
    won: int
    images: int = 1000

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        original = np.ones(self.images, bool)
        candidate = np.ones(self.images, bool)
        candidate[: self.lost] = False
        original[self.lost : self.lost + self.won] = False
        return original, candidate


@pytest.mark.parametrize("pair", [Pair(0, 0), Pair(20, 10), Pair(10, 20), Pair(300, 0)], ids=str)
def test_paired_drop(pair: Pair):
    estimate, low, high = paired_drop_points(*pair.arrays())
    assert estimate == pytest.approx(100 * (pair.lost - pair.won) / pair.images)
    assert low < estimate < high or estimate == pytest.approx(0)
    wald = 1.96 * np.sqrt(pair.lost + pair.won - (pair.lost - pair.won) ** 2 / pair.images) / pair.images * 100
    assert (high - low) / 2 == pytest.approx(wald, abs=0.2)
    assert low < high
    assert estimate <= upper_drop_points((estimate, low, high), confidence=0.95) < high
    one_sided = paired_drop_points(*pair.arrays(), confidence=0.9)[2]
    assert upper_drop_points((estimate, low, high), confidence=0.95) == pytest.approx(max(one_sided, estimate))


def test_paired_interval_covers_the_true_drop():
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        original = generator.random(1000) < 0.9
        flips = generator.random(1000)
        candidate = np.where(original, flips > 0.03, flips < 0.05)
        _, low, high = paired_drop_points(original, candidate)
        covered += low <= 100 * (0.9 * 0.03 - 0.1 * 0.05) <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_pairs_need_the_same_images():
    with pytest.raises(ValueError, match="same images"):
        paired_drop_points(np.ones(3, bool), np.ones(4, bool))


@pytest.mark.parametrize("metric", ["top1", "macro_f1", "auroc"])
def test_drop_of_any_metric(metric: str):
    worse = np.where(np.arange(1000)[:, None] % 10 == 0, LOGITS[:, ::-1], LOGITS)
    original, candidate = (score(x, LABELS, metric) for x in (LOGITS, worse))  # type: ignore[arg-type]
    estimate, low, high = drop_points(original, candidate, LABELS)
    assert estimate == pytest.approx(100 * (original.value - candidate.value))
    assert 0 < low < estimate < high
    assert drop_points(original, original, LABELS)[0] == 0


def test_near_chance():
    for metric in ("top1", "macro_f1", "auroc", "top5"):
        assert near_chance(score(logits_for(LABELS, 0.1), LABELS, metric).value, LABELS, metric)  # type: ignore[arg-type]
        assert not near_chance(score(LOGITS, LABELS, metric).value, LABELS, metric)  # type: ignore[arg-type]
    skewed = np.repeat([0, 1], [900, 100])
    assert near_chance(0.9, skewed, "top1")
    assert not near_chance(0.96, skewed, "top1")


def test_baseline_errors_name_the_preprocessing():
    chance = score(logits_for(LABELS, 0.1), LABELS)
    with pytest.raises(BaselineError, match=r"near chance.*8x8x1.*mean \(0\.3\).*Check"):
        check_baseline(chance, LABELS, None, STATED)
    good = score(LOGITS, LABELS)
    with pytest.raises(BaselineError, match=r"below the expected_accuracy 0\.9300.*std \(0\.4\)"):
        check_baseline(good, LABELS, 0.93, STATED)
    check_baseline(good, LABELS, good.value + 0.01, STATED)
    check_baseline(good, LABELS, None, STATED)


def test_evaluate_reads_the_view_in_order(tmp_path: Path):
    pixels = np.zeros((40, 8, 8, 1), np.uint8)
    labels = np.arange(40) % 4
    pixels[np.arange(40), 0, labels] = 255
    tensors = DatasetTensors(pixels, np.zeros(40, np.uint8), labels)
    write(tmp_path / "d", tensors, DatasetMetadata(STATED, tuple("abcd")))

    def network(images: Tensor) -> Tensor:
        return images[:, 0, 0, :4]

    result = evaluate(network, ImageData.open(tmp_path / "d").split("train"), batch=7)
    assert result.value == 1.0
    assert result.images == 40
    with pytest.raises(SearchError, match="no images"):
        evaluate(network, ImageData.open(tmp_path / "d").split("test"))
