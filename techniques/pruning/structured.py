"""Structured pruning: whole channels leave every layer that they couple (Torch-Pruning, Fang et al. 2023, section 3).

A *group* is the set of layers whose channels must go together, found by the dependency graph; its name is the qualified
name of the first convolution or linear, in execution order, that produces the channels.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from techniques.base import Transform
from techniques.context import TechniqueContext
from techniques.errors import ConfigError
from techniques.network import Network
from techniques.parameters import ChoiceParameter, FloatParameter, Parameter
from techniques.pruning.dependency import build, output_layers
from techniques.pruning.importance import channel_scores
from techniques.pruning.plan import Coupling, remove_channels
from techniques.shapes import layer_macs, node_shapes

MAX_RATIO = 0.95


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
        channels: how many there are now.
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
    reduces = frozenset({"parameters", "macs"})

    def parameters(self, network: Network, context: TechniqueContext) -> Sequence[Parameter]:
        """One ratio for all groups and the ranking; a search spreads the ratio over groups by their sensitivity."""
        if not any(group.channels > group.multiple for group in groups(network, context).values()):
            return ()
        choices = ("l2", "taylor") if context.calibration is not None else ("l2",)
        return (FloatParameter("ratio", 0.0, 0.75, 0.25), ChoiceParameter("importance", choices, "l2"))

    def apply(self, network: Network, config: StructuredPruningConfig, context: TechniqueContext) -> Network:
        """See the base; real weights with ``taylor`` need calibration images, meta networks need none."""
        pruned = network.clone()
        if network.is_meta:
            known = _known(network, context)
            removed = {
                name: _weakest(_scattered(known.groups[name].channels), kept, known.parts[name])
                for name, kept in _wanted(config, known.groups).items()
            }
            remove_channels(pruned, known.coupled, removed)
            node_shapes(pruned, batch=2)
            return pruned
        state = _Dependencies(pruned, context)
        wanted = _wanted(config, state.groups)
        if not wanted:
            return pruned
        full = {name: state.coupled(name) for name in wanted}
        scores = channel_scores(pruned, full, config.importance, context)
        for name, kept in wanted.items():
            state.remove(name, _weakest(scores[name], kept, state.parts[name]))
        pruned = pruned.rebuilt()
        node_shapes(pruned, batch=2)
        return pruned


def groups(network: Network, context: TechniqueContext) -> dict[str, PruningGroup]:
    """The groups that may be pruned, by name, in execution order; meta networks work too.

    A group is left out when it holds the network's outputs or any layer outside ``context.scopes``.
    """
    return _known(network, context).groups if network.is_meta else _Dependencies(network.clone(), context).groups


def carry_groups(source: Network, target: Network) -> None:
    """Let ``target``, a meta network that a transform which ignores sizes made of ``source``, be pruned by the same groups.

    Its integer layers and quantisers need no tracing then.
    """
    _ALIKE[target.graph] = source


def _wanted(config: StructuredPruningConfig, known: Mapping[str, PruningGroup]) -> dict[str, int]:
    """Channels to keep, of the groups that lose any."""
    unknown = sorted(set(config.ratios) - set(known))
    if unknown:
        raise ConfigError(f"structured_pruning: ratios of unknown or untouchable groups {unknown}; known: {sorted(known)}")
    kept = {name: known[name].kept(ratio) for name, ratio in sorted(config.ratios.items())}
    return {name: count for name, count in kept.items() if count < known[name].channels}


@dataclass(frozen=True)
class _Known:
    """What was found of a meta network."""

    groups: dict[str, PruningGroup]
    parts: Mapping[str, int]
    coupled: Mapping[str, tuple[Coupling, ...]]


_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, tuple[str, ...]], _Known]] = weakref.WeakKeyDictionary()
_ALIKE: weakref.WeakKeyDictionary[nn.Module, Network] = weakref.WeakKeyDictionary()


def _known(network: Network, context: TechniqueContext) -> _Known:
    """Groups and couplings of a meta network, remembered as long as it lives: nobody changes a network in place."""
    if network.graph in _ALIKE:
        return _known(_ALIKE[network.graph], context)
    found = _KNOWN.setdefault(network.graph, {})
    key = (context.channel_multiple, tuple(context.scopes))
    if key not in found:
        state = _Dependencies(network.clone(), context)
        coupled = {name: tuple(state.couplings(name)) for name in state.groups}
        found[key] = _Known(state.groups, state.parts, coupled)
    return found[key]


class _Dependencies:
    """Torch-Pruning's graph of one network (which it will change in place), read as named groups."""

    def __init__(self, network: Network, context: TechniqueContext) -> None:
        self._layers = network.layers()
        self._names = {module: name for name, module in network.graph.named_modules()}
        network.graph.requires_grad_(True)
        self._graph = build(network)
        self.parts: dict[str, int] = {}
        self.groups: dict[str, PruningGroup] = {}
        self._find(network, context)

    def coupled(self, name: str, channels: Sequence[int] | None = None) -> Any:
        """Torch-Pruning's group for some (default all) channels of the named group."""
        module = self._layers[name]
        indices = list(range(module.weight.shape[0])) if channels is None else list(channels)
        prune: Callable[..., Any] = self._graph.get_pruner_of_module(module).prune_out_channels
        return self._graph.get_pruning_group(module, prune, indices)

    def couplings(self, name: str) -> Iterator[Coupling]:
        """The layers that lose channels with the named group, and where."""
        for item in self.coupled(name):
            positions: dict[int, list[int]] = {}
            for root, index in zip(item.root_idxs, item.idxs, strict=True):
                positions.setdefault(root, []).append(index)
            module, handler = self._names.get(item.dep.target.module), item.dep.handler
            if module:
                is_output = bool(self._graph.is_out_channel_pruning_fn(handler))
                yield Coupling(module, is_output, handler, {root: tuple(places) for root, places in positions.items()})

    def remove(self, name: str, channels: Sequence[int]) -> None:
        """Take channels out of every coupled layer."""
        with torch.no_grad():
            self.coupled(name, channels).prune()

    def _find(self, network: Network, context: TechniqueContext) -> None:
        outputs = {self._names[module] for module in output_layers(network)}
        macs = layer_macs(network)
        total = max(sum(macs.values()), 1)
        visited: set[str] = set()
        for name, module in self._layers.items():
            if name in visited or module not in self._graph.module2node:
                continue
            items = [(dep, self._names.get(dep.target.module, "")) for dep, _ in self.coupled(name)]
            made = {layer for dep, layer in items if self._graph.is_out_channel_pruning_fn(dep.handler) and layer in self._layers}
            visited |= made
            touched = {layer for _, layer in items if layer}
            parts = _channel_parts(touched, self._layers, module)
            if parts is None or made & outputs or not all(context.in_scope(layer) for layer in touched):
                continue
            layers = tuple(layer for layer in self._layers if layer in touched)
            share = sum(macs.get(layer, 0) for layer in layers) / total
            self.parts[name] = parts
            multiple = math.lcm(context.channel_multiple, parts)
            self.groups[name] = PruningGroup(name, int(module.weight.shape[0]), layers, share, multiple)


def _channel_parts(touched: set[str], layers: Mapping[str, nn.Module], root: nn.Module) -> int | None:
    """Parts of the channel range that must lose the same positions (grouped convolutions); None if it cannot be pruned."""
    parts = 1
    for name in touched:
        module = layers.get(name)
        if not isinstance(module, nn.Conv2d) or module.groups == 1:
            continue
        if module.groups == module.in_channels == module.out_channels:
            if module is root:
                return None
            continue
        if module.groups in (module.in_channels, module.out_channels):
            return None
        parts = math.lcm(parts, module.groups)
    return parts


@functools.cache
def _scattered(channels: int) -> torch.Tensor:
    """Scores in no order. Where a shuffle deals channels out, what each reader loses depends on which ones go: a fair share."""
    return torch.rand(channels, generator=torch.Generator().manual_seed(channels))


def _weakest(scores: torch.Tensor, kept: int, parts: int) -> list[int]:
    """Indices of the channels to remove, the same positions in each part."""
    per_part = scores.view(parts, -1)
    order = per_part.sum(0).argsort(stable=True)
    size = per_part.shape[1]
    removed = order[: size - kept // parts].tolist()
    return sorted(part * size + index for part in range(parts) for index in removed)
