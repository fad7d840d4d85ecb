"""Structured pruning: whole channels leave every layer that they couple (DepGraph, Fang et al. 2023, section 3).

A *group* is the set of layers whose channels must go together, found by labels (`techniques.channels`); its name is the
qualified name of the first convolution or linear, in execution order, that produces the channels.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from techniques.base import Transform
from techniques.channels.atoms import Ids
from techniques.channels.channel_map import channel_map
from techniques.channels.groups import ChannelGroup, channel_groups, reasons_left_alone, whole_parts
from techniques.channels.proof import TOLERANCE, difference
from techniques.channels.surgery import remove
from techniques.context import TechniqueContext
from techniques.disproof import disproved
from techniques.errors import ConfigError
from techniques.network import Network
from techniques.option import Option
from techniques.parameters import ChoiceParameter, Parameter
from techniques.pruning.importance import class_scores
from techniques.recipe import Step
from techniques.shapes import layer_macs, node_shapes

MAX_RATIO = 0.95
RATIOS = (0.25, 0.5)
_MAX_BLOCKS = 8
_PROVEN_SHARE = 1 / 3


@dataclass(frozen=True)
class StructuredPruningConfig:
    """Share of channels to remove per group, and how channels are ranked.

    Attributes:
        ratios: group name to a share in [0, 0.95]; groups that are not named keep all channels.
        importance: ``l2`` norm of all coupled weights, or ``taylor`` (first order, needs calibration images).
    """

    ratios: Mapping[str, float] = field(default_factory=dict)
    importance: Literal["l2", "taylor"] = "l2"

    def __post_init__(self) -> None:
        for name, ratio in self.ratios.items():
            if not (isinstance(ratio, int | float) and 0 <= ratio <= MAX_RATIO):
                raise ValueError(f"ratios[{name!r}] must be a number in [0, {MAX_RATIO}], got {ratio!r}")
        if self.importance not in ("l2", "taylor"):
            raise ValueError(f"importance must be 'l2' or 'taylor', got {self.importance!r}")


@dataclass(frozen=True)
class PruningGroup:
    """Channels that can only be removed together.

    Attributes:
        name: the first layer in execution order that produces the channels.
        channels: how many there are now; where places of the first layer go together unevenly, how many can go one by one.
        layers: convolutions and linears that lose outputs or inputs, in execution order.
        macs_share: multiply-accumulates of those layers over those of the network.
        multiple: kept counts are rounded to this (the target's multiple and the layers' own groups).
    """

    name: str
    channels: int
    layers: tuple[str, ...]
    macs_share: float
    multiple: int

    def kept(self, ratio: float) -> int:
        """Channels left at ``ratio``: the nearest multiple or all, whichever is nearer (more on a tie); at least one multiple."""
        wanted = self.channels * (1 - ratio)
        multiples = range(self.multiple, self.channels, self.multiple)
        return min((self.channels, *reversed(multiples)), key=lambda count: abs(count - wanted))


class StructuredPruning(Transform[StructuredPruningConfig]):
    """Remove the least important channels of each named group."""

    name = "structured_pruning"
    config_type = StructuredPruningConfig
    axis = stage = "width"
    cites = "Fang et al. 2023, DepGraph; importance: Li et al. 2017 (norms), Molchanov et al. 2019 (Taylor)"
    not_supported_on = "layers whose channels cannot be followed to all that reads them"
    reduces = frozenset({"parameters", "macs"})
    changes_sizes_only = True

    def settings(self) -> Sequence[Parameter]:
        """How channels are ranked."""
        return (ChoiceParameter("importance", ("l2", "taylor"), "l2"),)

    def options(self, network: Network, context: TechniqueContext) -> Sequence[Option]:
        """A quarter and half of the channels of each group, where the target's multiple leaves them apart."""
        found = []
        for group in offered_groups(network, context).values():
            kept = {group.channels}
            for ratio in RATIOS:
                if group.kept(ratio) not in kept:
                    kept.add(group.kept(ratio))
                    found.append(Option(self.name, self.axis, group.name, ratio, group.layers, level=len(kept) - 2))
        return found

    def step(
        self, network: Network, options: Sequence[Option], settings: Mapping[str, Any], context: TechniqueContext
    ) -> Step | None:
        """A ratio for every group."""
        ratios = {option.place: option.strength for option in options}
        return self.make_step({"ratios": ratios, "importance": settings.get("importance", "l2")})

    def left_alone(self, network: Network, context: TechniqueContext) -> Mapping[str, str]:
        """Layers of which no group that is offered takes anything."""
        return left_alone(network, context)

    def carry(self, source: Network, target: Network) -> None:
        """``target`` is pruned by the groups of ``source``."""
        _ALIKE[target.graph] = _ALIKE.get(source.graph, source)

    def apply(self, network: Network, config: StructuredPruningConfig, context: TechniqueContext) -> Network:
        """See the base; real weights with ``taylor`` need calibration images, meta networks need none."""
        source = _ALIKE.get(network.graph, network)
        wanted, known = _wanted(config, groups(source, context)), channel_map(source)
        edited = bool(known.edits or known.extras)
        pruned = network.clone() if edited or not network.is_meta else network.with_own_modules()
        if not wanted:
            return pruned
        scores = class_scores(pruned, known, config.importance, context)
        removed = np.zeros(known.count, np.bool_)
        for name, share in wanted.items():
            removed[weakest(source, channel_groups(source)[name], share, scores, context)] = True
        remove(pruned, known, removed)
        if edited or not network.is_meta:
            pruned = pruned.rebuilt()
            node_shapes(pruned, batch=2)
        return pruned


def groups(network: Network, context: TechniqueContext) -> dict[str, PruningGroup]:
    """The groups that may be pruned, by name, in execution order; meta networks work too.

    A group is left out when any layer that it touches is outside ``context.scopes``.
    """
    macs = _macs(network)
    total = max(sum(macs.values()), 1)
    found = {}
    for name, group in channel_groups(network).items():
        if not all(context.in_scope(module) for module in group.modules):
            continue
        share = sum(macs.get(layer, 0) for layer in group.layers) / total
        unit = group.width or 1
        found[name] = PruningGroup(name, unit * len(group.classes), group.layers, share, unit * _multiple(group, context))
    return found


def offered_groups(network: Network, context: TechniqueContext) -> dict[str, PruningGroup]:
    """The groups of a network with real weights that may be pruned and were proven on it (see `unproven`)."""
    wrong = unproven(network, context)
    return {name: group for name, group in groups(network, context).items() if name not in wrong}


def left_alone(network: Network, context: TechniqueContext) -> dict[str, str]:
    """Layers of which no group that is offered takes anything, with the reason."""
    reasons = dict(reasons_left_alone(network))
    wrong = unproven(network, context)
    offered = {layer for group in offered_groups(network, context).values() for layer in group.layers}
    for name, group in channel_groups(network).items():
        for layer in group.layers:
            if layer not in offered:
                reasons[layer] = wrong.get(name, f"outside the scopes, or coupled with a layer that is ({name})")
    return {layer: reason for layer, reason in reasons.items() if layer not in offered}


def unproven(network: Network, context: TechniqueContext) -> dict[str, str]:
    """Groups whose removal does not compute what the original with zeros in their place does, with what was found (contract 16).

    All groups are tried together, layer by layer; only where that fails, halves of them, down to the one that is wrong.
    """
    if network.is_meta:
        return {}  # shapes alone prove nothing; what is offered there was proven on the real weights
    if network.graph not in _UNPROVEN:
        _UNPROVEN[network.graph] = disproved(list(channel_groups(network)), lambda names: _trial(network, names))
    return {name: why for name, why in _UNPROVEN[network.graph].items() if name in groups(network, context)}


_ALIKE: weakref.WeakKeyDictionary[nn.Module, Network] = weakref.WeakKeyDictionary()
_UNPROVEN: weakref.WeakKeyDictionary[nn.Module, dict[str, str]] = weakref.WeakKeyDictionary()
_MACS: weakref.WeakKeyDictionary[nn.Module, dict[str, int]] = weakref.WeakKeyDictionary()


def _macs(network: Network) -> dict[str, int]:
    """Remembered as its groups are: thousands of recipes prune the same network."""
    if network.graph not in _MACS:
        _MACS[network.graph] = layer_macs(network)
    return _MACS[network.graph]


def _trial(network: Network, names: Sequence[str]) -> str:
    known = channel_map(network)
    removed = np.zeros(known.count, np.bool_)
    scores = np.random.default_rng(0).random(known.count)
    free = TechniqueContext(channel_multiple=1)
    for name in names:
        removed[weakest(network, channel_groups(network)[name], 1 - _PROVEN_SHARE, scores, free)] = True
    error, where = difference(network, known, removed)
    return "" if error <= TOLERANCE else f"removed channels change {where} by {error:.1e} of its scale"


def _multiple(group: ChannelGroup, context: TechniqueContext) -> int:
    """Classes that must be kept together so that every layer keeps a multiple of the target's channels."""
    return context.channel_multiple // math.gcd(context.channel_multiple, group.least_width)


def _wanted(config: StructuredPruningConfig, known: Mapping[str, PruningGroup]) -> dict[str, float]:
    """Share of channels to keep, of the groups that lose any."""
    unknown = sorted(set(config.ratios) - set(known))
    if unknown:
        raise ConfigError(f"structured_pruning: ratios of unknown or untouchable groups {unknown}; known: {sorted(known)}")
    kept = {name: known[name].kept(ratio) for name, ratio in sorted(config.ratios.items())}
    return {name: count / known[name].channels for name, count in kept.items() if count < known[name].channels}


def weakest(network: Network, group: ChannelGroup, share: float, scores: npt.NDArray[np.float64], context: TechniqueContext) -> Ids:
    """Classes to remove so that ``share`` of the group is kept, the weakest first, and no value loses all that it has.

    Where the group's channels go to a few places (the parts of a split), each place keeps its share: the shapes that result do not
    depend on the scores. Shuffles deal channels to many places; which of them lose how many is known with the weights alone.
    """
    if len(group.blocks) == 1:
        return _lowest(group.classes, round(share * len(group.classes)), scores)
    if len(group.blocks) <= _MAX_BLOCKS:
        multiple = _multiple(group, context)
        kept = [_share_of(len(block), share, multiple) for block in group.blocks]
        return np.concatenate([_lowest(b, k, scores) for b, k in zip(group.blocks, kept, strict=True)])
    removed = np.zeros(len(scores), np.bool_)
    removed[_lowest(group.classes, round(share * len(group.classes)), scores)] = True
    for part in whole_parts(channel_map(network), group):
        if removed[part].all():
            removed[part[scores[part].argmax()]] = False
    return np.flatnonzero(removed)


def _share_of(count: int, share: float, multiple: int) -> int:
    """Classes that a block keeps: a multiple where it has two of them."""
    unit = multiple if count >= 2 * multiple else 1
    return min(count, max(unit, round(share * count / unit) * unit))


def _lowest(classes: Ids, kept: int, scores: npt.NDArray[np.float64]) -> Ids:
    order = classes[scores[classes].argsort(kind="stable")]
    return order[: len(classes) - max(kept, 1)]
