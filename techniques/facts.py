"""What techniques know of the target: plain values, made once for a search and handed on whole. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Format = tuple[int, int]
"""Bits of weights, bits of activations."""


@dataclass(frozen=True)
class TargetFacts:
    """Facts of a target.

    Attributes:
        channel_multiple: kept channel counts are rounded to this multiple (the target's preference); 1 rounds nothing.
        formats: that its runtime runs as such.
        unsigned_activations: whether the target prefers uint8 to int8 activations.
        reduced_weight_range: whether the target's integer kernels add two products in 16 bits, so that weights must leave room.
    """

    channel_multiple: int = 8
    formats: tuple[Format, ...] = ((32, 32), (8, 8))
    unsigned_activations: bool = True
    reduced_weight_range: bool = True

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {name: value for name, value in asdict(self).items() if name in TargetFacts.__dataclass_fields__}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TargetFacts:
        """Read what `to_json` wrote."""
        return TargetFacts(**{**data, "formats": tuple((weights, activations) for weights, activations in data["formats"])})
