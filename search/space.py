"""The policy: about ten numbers that the sampler proposes and the allocation turns into a recipe per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from techniques.parameters import ChoiceParameter, FloatParameter, Parameter

RESOLUTION_SCALES = (1.0, 0.857, 0.714)
FIRST_TIGHTNESSES = (0.95, 0.85, 0.75)


@dataclass(frozen=True)
class Policy:
    """How to spend the accuracy that the budget allows.

    Attributes:
        tightness: which share of each limit the recipe aims at; below 1 it leaves room, above 1 the sampler explores.
        depth_cost, width_cost, rank_cost: what a unit of loss counts for when a block, channels or ranks are removed;
            a low cost makes the allocation prefer that technique.
        precision: ``int8`` or ``fp32``.
        importance: how pruned channels are chosen.
        resolution_scale: of the input's height and width.
        temperature, alpha, learning_rate: of the distillation.
    """

    tightness: float = 0.95
    depth_cost: float = 1.0
    width_cost: float = 1.0
    rank_cost: float = 1.0
    precision: str = "int8"
    importance: str = "l2"
    resolution_scale: float = 1.0
    temperature: float = 4.0
    alpha: float = 0.9
    learning_rate: float = 0.05

    def to_json(self) -> dict[str, Any]:
        """A flat JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Policy:
        """Read what `to_json` wrote; fields of later versions are ignored, missing ones take their defaults."""
        known = {f.name for f in fields(Policy)}
        return Policy(**{name: value for name, value in data.items() if name in known})


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of the policy that this request leaves open, and the policies that are tried first."""

    parameters: tuple[Parameter, ...]
    first: tuple[Policy, ...]


def search_space(techniques: Sequence[str], size_is_free: bool) -> SearchSpace:
    """The space for a request: a parameter only where its technique may be used.

    Args:
        techniques: names that the request and the target allow.
        size_is_free: whether the network runs at other resolutions.
    """
    allowed = set(techniques)
    parameters: list[Parameter] = [FloatParameter("tightness", 0.75, 1.0, 0.95)]
    for name, technique in (("depth_cost", "block_removal"), ("width_cost", "structured_pruning"), ("rank_cost", "low_rank")):
        if technique in allowed:
            parameters.append(FloatParameter(name, 0.1, 10.0, 1.0, log=True))
    precisions = ("int8", "fp32") if "int8_quantization" in allowed else ("fp32",)
    if len(precisions) > 1:
        parameters.append(ChoiceParameter("precision", precisions, "int8"))
    if "structured_pruning" in allowed:
        parameters.append(ChoiceParameter("importance", ("l2", "taylor"), "l2"))
    scales = RESOLUTION_SCALES if size_is_free and "input_resolution" in allowed else (1.0,)
    if len(scales) > 1:
        parameters.append(ChoiceParameter("resolution_scale", scales, 1.0))
    if "distillation" in allowed:
        parameters.append(FloatParameter("temperature", 1.0, 8.0, 4.0))
        parameters.append(FloatParameter("alpha", 0.5, 1.0, 0.9))
        parameters.append(FloatParameter("learning_rate", 0.01, 0.1, 0.05, log=True))
    # A front needs its middle and its far end as well: the same balance of techniques at three tightnesses.
    first = [Policy(tightness=tightness, precision=precisions[0]) for tightness in FIRST_TIGHTNESSES]
    if "block_removal" in allowed:
        first.append(Policy(precision=precisions[0], depth_cost=0.2, width_cost=2.0, rank_cost=4.0))
    if "structured_pruning" in allowed:
        first.append(Policy(precision=precisions[0], depth_cost=4.0, width_cost=0.3, rank_cost=4.0, importance="taylor"))
    if len(precisions) > 1:
        first.append(Policy(precision="fp32"))
    return SearchSpace(tuple(parameters), tuple(first))
