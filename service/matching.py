"""Whether a search, its model and its dataset go together."""

from __future__ import annotations

from search.errors import FieldViolation
from search.evaluation.metrics import METRICS
from search.spec import SearchSpec
from service.store.input_store import StoredInput


def mismatches(spec: SearchSpec, model: StoredInput | None, dataset: StoredInput | None) -> list[FieldViolation]:
    """What is wrong only in combination; None stands for what is not known yet."""
    found: list[FieldViolation] = []
    label_free = METRICS[spec.metric].label_free if spec.metric in METRICS else False
    if label_free and spec.expected_accuracy is not None:
        found.append(FieldViolation("expected_accuracy", "means nothing for AGREEMENT: the original agrees with itself"))
    if model and not model.model.is_classifier and not label_free:
        found.append(
            FieldViolation(
                "metric",
                "the model gives no row of classes but a map or the like; take AGREEMENT, which compares outputs with its own",
            )
        )
    if dataset and not dataset.dataset.labeled and not label_free:
        found.append(FieldViolation("metric", "the dataset has no labels; take AGREEMENT"))
    if model and dataset:
        found += _misfits(spec, model, dataset)
    return found


def _misfits(spec: SearchSpec, model: StoredInput, dataset: StoredInput) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    given, shape = dataset.dataset.preprocessing, model.model.input_shape
    if (given.channels, given.height, given.width) != shape:
        words = f"gives {(given.channels, given.height, given.width)} images, the model reads {shape}; upload it with that size"
        found.append(FieldViolation("dataset", words))
    classes, outputs = len(dataset.dataset.class_names), model.model.outputs
    # One logit tells two classes apart; labels that do not fit are left aside where outputs are compared with the original's.
    if classes > (2 if outputs == 1 else outputs) and not (spec.metric in METRICS and METRICS[spec.metric].label_free):
        found.append(FieldViolation("dataset", f"has {classes} classes, the model {outputs} outputs"))
    chance = 1 / classes if classes > 1 and spec.metric == "top1" else 0.0
    if spec.expected_accuracy is not None and 0 < spec.expected_accuracy <= chance:
        words = f"{spec.expected_accuracy:g} is not above chance ({chance:g} for {classes} classes)"
        found.append(FieldViolation("expected_accuracy", words))
    return found
