"""Which places of a network a search can make smaller, and why it leaves the others alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from search.sensitivity import Sensitivity
from techniques.context import TechniqueContext
from techniques.network import Network
from techniques.shapes import layer_macs

PHASE = "places"
_TOLD = 6
_MOST_REASON = 160


@dataclass(frozen=True)
class LeftAlone:
    """A place that no structural technique of this search makes smaller."""

    place: str
    reason: str


@dataclass(frozen=True)
class Places:
    """Convolutions and linear layers (the places), and what part of the network lies in those that can be made smaller.

    Attributes:
        offered: places that a usable option makes smaller or removes.
        macs_share, parameters_share: what lies in offered places, over what lies in all of them; fractions.
    """

    offered: int
    total: int
    macs_share: float
    parameters_share: float
    left_alone: tuple[LeftAlone, ...]

    def to_json(self) -> dict[str, Any]:
        """As in the report."""
        return {**asdict(self), "left_alone": [asdict(one) for one in self.left_alone]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Places:
        """Read what `to_json` wrote."""
        return Places(**{**data, "left_alone": tuple(LeftAlone(**one) for one in data["left_alone"])})

    @property
    def sentence(self) -> str:
        """For people."""
        shares = f"{_percent(self.macs_share)} of the MACs, {_percent(self.parameters_share)} of the parameters"
        if not self.left_alone:
            return f"all {self.total} places can be made smaller ({shares})"
        told = "; ".join(f"{one.place}: {one.reason}" for one in self.left_alone[:_TOLD])
        more = len(self.left_alone) - _TOLD
        rest = f"; and {more} more, see the report" if more > 0 else ""
        return (
            f"{len(self.left_alone)} of {self.total} places are left alone, {shares} can be made smaller. Left alone: {told}{rest}"
        )


def find_places(
    network: Network, context: TechniqueContext, sensitivity: Sensitivity, reasons: Mapping[str, str], techniques: Sequence[str]
) -> Places:
    """What the usable options touch, and a reason for every place that they do not.

    Args:
        reasons: place -> why a technique leaves it alone (`Transform.left_alone`).
        techniques: those of this search.
    """
    layers = {str(node.target): module for node, module in network.module_calls() if isinstance(module, _ConvNd | nn.Linear)}
    offered = {layer for option in sensitivity.options for layer in option.layers} & set(layers)
    macs, parameters = layer_macs(network), {name: _own_parameters(module) for name, module in layers.items()}
    explain = _Reasons(context, sensitivity, reasons, techniques)
    left = tuple(LeftAlone(name, explain(name)[:_MOST_REASON]) for name in layers if name not in offered)
    macs_of_places = {name: macs.get(name, 0) for name in layers}
    return Places(len(offered), len(layers), _share(macs_of_places, offered), _share(parameters, offered), left)


class _Reasons:
    """Why a place is left alone: the request, then the network, then what its options raised, then the techniques themselves."""

    def __init__(
        self, context: TechniqueContext, sensitivity: Sensitivity, reasons: Mapping[str, str], techniques: Sequence[str]
    ) -> None:
        self._context, self._skipped, self._reasons = context, sensitivity.skipped, reasons
        usable = {option.option_id for option in sensitivity.options}
        skipped = {name: reason for name, reason in self._skipped.items() if name not in usable and name.count(":") > 1}
        self._of_options = {name.split(":", 1)[1].rpartition(":")[0]: reason for name, reason in skipped.items()}
        self._of_techniques = "; ".join(f"{name}: {self._skipped[name]}" for name in techniques if name in self._skipped)

    def __call__(self, place: str) -> str:
        if not self._context.in_scope(place):
            return "outside the scopes of the request"
        known = self._reasons.get(place) or self._of_options.get(place) or self._of_techniques
        return known or "nothing that this search may do applies to it"


def _own_parameters(module: nn.Module) -> int:
    """As `Network.parameter_count`: integer weights are buffers."""
    integers = sum(buffer.numel() for name, buffer in module.named_buffers(recurse=False) if name == "weight")
    return sum(parameter.numel() for parameter in module.parameters(recurse=False)) + integers


def _share(amounts: Mapping[str, int], offered: set[str]) -> float:
    total = sum(amounts.values())
    return sum(amount for name, amount in amounts.items() if name in offered) / total if total else 0.0


def _percent(share: float) -> str:
    """Never rounded up to all of it."""
    return "100%" if share == 1 else f"{min(share * 100, 99.9):.3g}%"
