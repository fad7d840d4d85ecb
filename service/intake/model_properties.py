"""What is known of a model besides its files: found once at its upload, kept by the store, asked for by searches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class ModelProperties:
    """Of the network as it was uploaded.

    Attributes:
        input_shape: (channels, height, width).
        outputs: classes; 0 for a network that is no classifier.
        macs: of one image.
        onnx_size_bytes: of the original through our own exporter, stripped; ratios compare with it.
        size_is_free: whether other heights and widths can be run, too; ``size_note`` says why not.
        erased: what was in the file and is not kept.
    """

    input_shape: tuple[int, int, int]
    outputs: int
    is_classifier: bool
    parameters: int
    macs: int
    onnx_size_bytes: int
    size_is_free: bool
    size_note: str
    erased: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """These fields alone, whatever a subclass adds."""
        values = {field.name: getattr(self, field.name) for field in fields(ModelProperties)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @staticmethod
    def values_of(data: Mapping[str, Any]) -> dict[str, Any]:
        """Back from JSON, as arguments; what else stands in ``data`` is left aside."""
        channels, height, width = data["input_shape"]
        tuples = {"input_shape": (channels, height, width), "erased": tuple(data["erased"])}
        return {field.name: data[field.name] for field in fields(ModelProperties)} | tuples
