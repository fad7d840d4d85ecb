"""Options: what one technique can do at one place of a network. The search chooses among them and knows no technique by name.

Options compete within a *slot*, an axis at a place: of all that can be done to the rank of one layer, a recipe does one thing.
An axis is what a saving is taken from, and there are six; stages are the order in which a recipe's steps stand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

Axis = Literal["resolution", "depth", "width", "rank", "sparsity", "bits"]
AXES: tuple[Axis, ...] = get_args(Axis)
Stage = Literal["resolution", "depth", "width", "rank", "sparsity", "training", "bits", "coding"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""Each stage works on the shapes that those before it leave."""
NETWORK = ""
"""The place of an option that takes the whole network; the policy decides on it, not the allocation."""


@dataclass(frozen=True)
class Option:
    """One thing that a technique can do at one place.

    Attributes:
        technique: registered name.
        place: a channel group, block or layer by its qualified name, or `NETWORK`.
        strength: how much of the place goes, in (0, 1]: what is stronger replaces what is weaker.
        level: 0 for the mildest at its place, then 1 and so on.
        layers: convolutions and linears that it touches, in execution order.
        removes: whether the layers leave: options inside them then mean nothing.
        data: JSON object for the technique's own `step`.
        label: tells options of one technique at one place apart; the strength, where nothing is said.
    """

    technique: str
    axis: Axis
    place: str
    strength: float
    layers: tuple[str, ...]
    level: int = 0
    removes: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise ValueError(f"an option of {self.technique} is on the axis {self.axis!r}; there are {list(AXES)}")
        if not self.layers:
            raise ValueError(f"an option of {self.technique} at {self.place!r} touches no layer")
        if not 0 < self.strength <= 1:
            raise ValueError(f"an option of {self.technique} at {self.place!r} has strength {self.strength}, not in (0, 1]")
        frozen: dict[str, Any] = json.loads(json.dumps(dict(self.data), sort_keys=True))
        object.__setattr__(self, "data", MappingProxyType(frozen))
        object.__setattr__(self, "label", self.label or f"{self.strength:g}")

    @property
    def option_id(self) -> str:
        """Unique in a network: ``structured_pruning:stage1.conv:0.5``, ``int8_quantization:int8`` for the whole of it."""
        return ":".join(part for part in (self.technique, self.place, self.label) if part)

    @property
    def slot(self) -> tuple[Axis, str]:
        """At most one option of a recipe is in it."""
        return self.axis, self.place

    def __hash__(self) -> int:
        return hash(self.option_id)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**self.__dict__, "layers": list(self.layers), "data": dict(self.data)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Option:
        """Read what `to_json` wrote."""
        return Option(**{**data, "layers": tuple(data["layers"])})
