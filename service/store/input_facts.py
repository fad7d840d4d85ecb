"""What intake found out about models and datasets, as the store keeps it: read once, with types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

from search.preprocessing import Preprocessing

Facts = TypeVar("Facts")


@dataclass(frozen=True)
class KnownModel:
    """Of a model; digests are of blobs. See `service.intake.models.ModelFacts`."""

    canonical_sha256: str
    onnx_sha256: str
    graph_sha256: str
    architecture: str
    input_shape: tuple[int, int, int]
    outputs: int
    is_classifier: bool
    parameters: int
    macs: int
    onnx_size_bytes: int
    size_is_free: bool
    size_note: str
    erased: tuple[str, ...]


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
    shape = tuple(int(size) for size in facts["input_shape"])
    return _made(KnownModel, {**facts, "input_shape": shape, "erased": tuple(facts["erased"])})


def known_dataset(facts: Mapping[str, Any]) -> KnownDataset:
    """What the store keeps of a dataset, as an object."""
    tuples = {name: tuple(facts[name]) for name in ("class_names", "notes", "group_columns")}
    problems = tuple((problem["place"], problem["what"]) for problem in facts["problems"])
    return _made(KnownDataset, {**facts, **tuples, "problems": problems, "preprocessing_json": facts["preprocessing"]})


def _made(kind: type[Facts], values: Mapping[str, Any]) -> Facts:
    """What is stored beside (type, version, the digest of the options) is left aside."""
    return kind(**{field.name: values[field.name] for field in fields(kind)})  # type: ignore[arg-type]
