"""From the stored network to the exported file, for each kind of output: what is trained, agreed with and written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hw_models.catalogue import datasheet_targets
from hw_models.targets import get_target
from paretopress.runtime.session import run_classifier
from search.baseline import open_original, read_original
from search.conclusion import network_notes
from search.environment import SearchEnvironment
from search.errors import BaselineError
from search.evaluation.accuracy import evaluate
from search.evaluation.data import TrainingSource
from search.execution.trial import TrialPlan
from search.finalists import export
from search.job import run_search
from search.protocols import CandidateRecord
from search.setup import Setup, prepare
from search.spec import Budget, Effort
from techniques.recipe import Recipe, Step
from tests.search import head_cases
from tests.search.head_cases import DIGITS, ODD, SEVERAL, Ended, environment
from tests.search.records import latencies_in

NAMES = ("stem.0", "blocks.0.conv1", "blocks.1.conv1", "blocks.1.conv2", "blocks.2.conv1", "blocks.2.conv2")
THIS = get_target("cpu-ort-1t")
HALVED = Step("structured_pruning", {"ratios": {f"body.{name}": 0.5 for name in NAMES}})
DISTIL = Step("distillation", {"temperature": 4.0, "alpha": 0.9, "learning_rate": 0.05})


def rungs(setup: Setup, recipe: Recipe) -> list[float]:
    """Accuracy without training, then after all of it."""
    plan = TrialPlan(0, {"recipe": recipe.to_json()})
    return [float(setup.evaluator.evaluate(plan, rung)["accuracy"]) for rung in (0, setup.rungs - 1)]


def outputs_of_file(setup: Setup, given: SearchEnvironment, recipe: Recipe, images: torch.Tensor) -> np.ndarray:
    """What the exported candidate gives in the runtime."""
    record = CandidateRecord("c0000", 0, recipe.to_json(), 1, 0, measurements=setup.baseline.measurements)
    return run_classifier(export(record, setup.evaluator, setup.pricer, given.blobs, setup.target).file, images.numpy())


def test_a_single_probability_learns_and_is_what_the_file_gives(tmp_path: Path) -> None:
    network = Ended(head_cases.odd(), lambda y: torch.sigmoid(y).squeeze(1)).eval()
    spec, given = environment(tmp_path, network, ODD, effort=Effort(2, 120.0, 1, 5.0))
    given.work_dir.mkdir()
    setup = prepare(spec, given)
    assert setup.validation.value > 0.93
    recipe = Recipe((HALVED, DISTIL))
    pruned, distilled = rungs(setup, recipe)
    assert pruned < setup.validation.value - 0.05
    assert distilled > max(pruned + 0.05, setup.validation.value - 0.05)
    written = outputs_of_file(setup, given, recipe, head_cases.images()[:40])
    assert written.shape == (40,)
    assert 0 < written.min() < 0.5 < written.max() < 1


def test_agreement_of_a_single_logit_is_not_that_of_any_network(tmp_path: Path) -> None:
    spec, given = environment(tmp_path, head_cases.odd(), None, metric="agreement")
    original = open_original(spec, given.blobs, THIS)
    reading, result = read_original(spec, original)
    assert result.value == 1.0
    broken = original.network.clone().eval()
    nn.init.zeros_(broken.graph.get_submodule("classifier").weight)  # type: ignore[arg-type]
    view = original.data.split("validation")
    assert evaluate(reading.predictor(broken), view, "agreement", 256, result.logits, reading.task).value < 0.7


def test_labels_of_their_own_are_taught(tmp_path: Path) -> None:
    spec, given = environment(tmp_path, head_cases.tagger(), SEVERAL, metric="macro_f1")
    original = open_original(spec, given.blobs, THIS)
    reading, _ = read_original(spec, original)
    batch = next(TrainingSource(original.data.split("train"), task=reading.task).batches(0, 8))
    assert batch.labels is not None
    assert batch.labels.shape == (8, 4)


def test_labels_that_a_single_logit_cannot_tell_apart(tmp_path: Path) -> None:
    spec, given = environment(tmp_path, head_cases.odd(), DIGITS)
    with pytest.raises(BaselineError, match="name 10 classes, but the network tells 2 apart"):
        open_original(spec, given.blobs, THIS)


def test_labels_that_do_not_fit_are_left_aside_for_agreement_with_a_note(tmp_path: Path) -> None:
    spec, given = environment(tmp_path, head_cases.odd(), DIGITS, metric="agreement")
    given.work_dir.mkdir()
    original = open_original(spec, given.blobs, THIS)
    assert not original.data.labelled
    assert original.data.split("train").labels is None
    assert read_original(spec, original)[1].value == 1.0
    (note,) = [note for note in network_notes(prepare(spec, given)) if "labels" in note]
    assert note == "the labels name 10 classes, but the network tells 2 apart: they were left aside, for training as well"


@pytest.mark.parametrize("labels", [None, ODD], ids=["none", "labels that fit"])
def test_labels_that_are_read_or_missing_need_no_note(labels: np.ndarray | None, tmp_path: Path) -> None:
    spec, given = environment(tmp_path, head_cases.odd(), labels, metric="agreement")
    assert open_original(spec, given.blobs, THIS).note == ""


def test_a_map_is_searched_label_free_by_its_relative_error_for_a_board_that_is_not_here(tmp_path: Path) -> None:
    board = next(target for target in datasheet_targets() if target.name == "raspberry-pi-5")
    spec, given = environment(
        tmp_path,
        head_cases.dense(),
        None,
        metric="agreement",
        effort=Effort(1, 100.0, 1, 1.0),
        budget=Budget(max_accuracy_drop_points=60.0),
        techniques=("structured_pruning", "distillation"),
        target=board,
    )
    outcome = run_search(spec, given)
    assert outcome.state == "SUCCEEDED", outcome.message
    assert "ms predicted, uncalibrated" in outcome.message
    report = json.loads(given.blobs.get_bytes(outcome.report_sha256 or ""))
    assert any("fidelity" in note for note in report["notes"])
    assert any("raspberry-pi-5 is not attached: all latencies are predicted, uncalibrated" in note for note in report["notes"])
    assert {one["source"] for one in latencies_in(report)} == {"predicted"}
    best = next(r for r in given.store.candidates() if r.candidate_id == outcome.best)
    assert 0.4 < best.accuracy["test"] < 1.0
    # Relative errors: more than nothing, and hardly beyond losing everything.
    sensitivity = given.store.phase("sensitivity")
    assert sensitivity is not None
    assert all(0 < loss < 2 for loss in sensitivity["loss"].values())
