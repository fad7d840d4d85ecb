"""What intake found out about models and datasets, as the store keeps it: read once, with types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

from search.preprocessing import Preprocessing
from service.intake.model_properties import ModelProperties

Facts = TypeVar("Facts")


@dataclass(frozen=True)
class KnownModel(ModelProperties):
    """Of a model; digests are of blobs."""

    canonical_sha256: str
    onnx_sha256: str
    graph_sha256: str
    architecture: str


@dataclass(frozen=True)
class KnownDataset:
    """Of a dataset. See `service.intake.datasets.DatasetFacts`; of each problem, its place and what it is."""

    canonical_sha256: str
    data_sha256: str
    preprocessing_json: Mapping[str, Any]
    image_count: int
    class_names: tuple[str, ...]
    labeled: bool
    split_sizes: Mapping[str, int]
    split_note: str
    notes: tuple[str, ...]
    group_columns: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]
    problem_count: int

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Of every image."""
        return Preprocessing.from_json(dict(self.preprocessing_json))


def known_model(facts: Mapping[str, Any]) -> KnownModel:
    """What the store keeps of a model, as an object."""
    return _made(KnownModel, {**facts, **ModelProperties.values_of(facts)})


def known_dataset(facts: Mapping[str, Any]) -> KnownDataset:
    """What the store keeps of a dataset, as an object."""
    tuples = {name: tuple(facts[name]) for name in ("class_names", "notes", "group_columns")}
    problems = tuple((problem["place"], problem["what"]) for problem in facts["problems"])
    return _made(KnownDataset, {**facts, **tuples, "problems": problems, "preprocessing_json": facts["preprocessing"]})


def _made(kind: type[Facts], values: Mapping[str, Any]) -> Facts:
    """What is stored beside (type, version, the digest of the options) is left aside."""
    return kind(**{field.name: values[field.name] for field in fields(kind)})  # type: ignore[arg-type]
