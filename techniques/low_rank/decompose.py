"""The low-rank technique: chosen layers become two or three thinner ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from techniques.base import Transform
from techniques.channels.proof import TOLERANCE, relative_difference
from techniques.context import TechniqueContext
from techniques.disproof import disproved
from techniques.errors import ConfigError, DataRequiredError
from techniques.low_rank.factorization import Layer, energy_ranks, factor_shapes, factorise, full_ranks, is_matrix
from techniques.network import Network
from techniques.option import Option
from techniques.recipe import Step
from techniques.shapes import node_shapes

RANK_FRACTIONS = (0.5, 0.25)
MIN_CHANNELS, MIN_FEATURES = 32, 64
"""Thinner convolutions and linears are not offered to a search: their factors are no faster."""
_CORNER = 32


@dataclass(frozen=True)
class LowRankConfig:
    """Ranks per layer, or the energy from which they follow.

    Attributes:
        ranks: layer name to ``r`` (linears and 1x1 convolutions; for other kernels it means ``[r, r]``) or ``[r_out, r_in]``.
            Rounded up to the target's channel multiple. A rank that would not save weights *and* MACs is refused.
        energies: layer name to the share of squared singular values to keep, in (0, 1]; a layer where that saves nothing
            stays as it is. Needs real weights; `LowRank.resolved` turns energies into ranks.
    """

    ranks: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    energies: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.ranks.items():
            ranks = [value] if isinstance(value, int) else list(value)
            if not 1 <= len(ranks) <= 2 or not all(isinstance(r, int) and not isinstance(r, bool) and r >= 1 for r in ranks):
                raise ValueError(f"ranks[{name!r}] must be a rank or [r_out, r_in], each at least 1, got {value!r}")
        for name, energy in self.energies.items():
            if not (isinstance(energy, int | float) and 0 < energy <= 1):
                raise ValueError(f"energies[{name!r}] must be in (0, 1], got {energy!r}")
        both = sorted(set(self.ranks) & set(self.energies))
        if both:
            raise ValueError(f"ranks and energies both name {both}")


class LowRank(Transform[LowRankConfig]):
    """Truncated SVD for linears and 1x1 convolutions, Tucker-2 for larger kernels; biases stay on the last factor."""

    name = "low_rank"
    config_type = LowRankConfig
    axis = stage = "rank"
    cites = "Denton et al. 2014 (SVD), Kim et al. 2016 (Tucker-2)"
    not_supported_on = "grouped convolutions, layers that are called twice, layers of integers"
    reduces = frozenset({"parameters", "macs"})
    reads_shapes = True

    def options(self, network: Network, context: TechniqueContext) -> Sequence[Option]:
        """Half and a quarter of the rank of each layer that is wide enough."""
        wrong = self.left_alone(network, context)
        layers = {name: layer for name, layer in network.layers().items() if name not in wrong and context.in_scope(name)}
        return [
            Option(self.name, self.axis, name, 1 - fraction, (name,), level)
            for name, layer in layers.items()
            if _is_offered(layer)
            for level, fraction in enumerate(RANK_FRACTIONS)
        ]

    def step(
        self, network: Network, options: Sequence[Option], settings: Mapping[str, Any], context: TechniqueContext
    ) -> Step | None:
        """Ranks of the shapes that pruning leaves; a layer that has become too thin for them stays whole."""
        layers, ranks = network.layers(), {}
        for option in options:
            found = _share_of_ranks(layers.get(option.place), 1 - option.strength, context.channel_multiple)
            if found is not None:
                ranks[option.place] = found
        return self.make_step({"ranks": ranks}) if ranks else None

    def left_alone(self, network: Network, context: TechniqueContext) -> Mapping[str, str]:
        """Layers that are not themselves any more when they are factorised."""
        return {} if network.is_meta else unproven_layers(network, context)

    def resolved(self, network: Network, config: LowRankConfig, context: TechniqueContext) -> LowRankConfig:
        """The same choice in ranks alone, so that it can be priced and replayed on shapes.

        Raises:
            ConfigError: a layer that is not there or cannot be factorised.
            DataRequiredError: energies were given and the network is on meta.
        """
        known = decomposable_layers(network, context)
        positions = _positions(network)
        ranks: dict[str, int | Sequence[int]] = dict(config.ranks)
        for name, energy in config.energies.items():
            layer = _known(known, name)
            found = _rounded(ranks_for_energy(network, name, energy), layer, context)
            if _saves(layer, found, positions[name]):
                ranks[name] = list(found)
        return LowRankConfig(ranks)

    def apply(self, network: Network, config: LowRankConfig, context: TechniqueContext) -> Network:
        """See the base; needs no images."""
        known = decomposable_layers(network, context)
        positions = _positions(network)
        chosen: dict[str, tuple[int, ...]] = {}
        for name, value in self.resolved(network, config, context).ranks.items():
            layer = _known(known, name)
            chosen[name] = _rounded(_as_ranks(name, value, layer), layer, context)
            if not _saves(layer, chosen[name], positions[name]):
                raise ConfigError(
                    f"low_rank: ranks[{name!r}] = {value!r} (rounded to {list(chosen[name])}) saves no weights or MACs on a layer "
                    f"of shape {list(layer.weight.shape)}; ask for a lower rank"
                )
        result = network.clone()
        for name, ranks in chosen.items():
            _replace(result.graph, name, ranks)
        return result.rebuilt()


def _is_offered(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        thinnest = min(layer.in_channels, layer.out_channels)
        return layer.groups == 1 and thinnest >= MIN_CHANNELS and layer.kernel_size != (1, 1)
    return isinstance(layer, nn.Linear) and min(layer.in_features, layer.out_features) >= MIN_FEATURES


def _share_of_ranks(layer: nn.Module | None, fraction: float, multiple: int) -> int | list[int] | None:
    """A fraction of the full ranks in the target's multiples; None where it would save nothing."""

    def share(full: int) -> int:
        return min(full, max(multiple, round(full * fraction / multiple) * multiple))

    if isinstance(layer, nn.Conv2d):
        pair = [share(layer.out_channels), share(layer.in_channels)]
        return pair if pair[0] < layer.out_channels or pair[1] < layer.in_channels else None
    return share(min(layer.in_features, layer.out_features)) if isinstance(layer, nn.Linear) else None


def decomposable_layers(network: Network, context: TechniqueContext) -> dict[str, Layer]:
    """Ungrouped layers of floats in scope that are called once and for which some rank saves weights and MACs.

    Layers of integers are left as they are: their factors would be floats, larger than what they stand for.
    """
    calls: dict[str, int] = {}
    for node, _ in network.module_calls():
        calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    positions = _positions(network)
    found: dict[str, Layer] = {}
    for name, layer in _float_layers(network).items():
        if not context.in_scope(name) or calls[name] > 1 or (isinstance(layer, nn.Conv2d) and layer.groups > 1):
            continue
        smallest = _rounded((1,) * len(full_ranks(layer)), layer, context)
        if _saves(layer, smallest, positions[name]):
            found[name] = layer
    return found


def unproven_layers(network: Network, context: TechniqueContext) -> dict[str, str]:
    """Layers that are not themselves any more when they are factorised at full rank (contract 16), with what was found.

    A corner of a layer is tried, at most 32 outputs by 32 inputs of it: stride, padding, dilation and kernel decide, not the number
    of channels, and decomposing large layers at full rank takes seconds each.
    """
    layers = decomposable_layers(network, context)
    return disproved(list(layers), lambda names: next(filter(None, (_trial(layers[name]) for name in names)), ""))


@torch.no_grad()
def _trial(layer: Layer) -> str:
    corner = _corner(layer)
    image = torch.randn(2, corner.weight.shape[1], generator=torch.Generator().manual_seed(0))
    if isinstance(corner, nn.Conv2d):
        sides = [dilation * (kernel + 2) for kernel, dilation in zip(corner.kernel_size, corner.dilation, strict=True)]
        image = torch.randn(2, corner.in_channels, *sides, generator=torch.Generator().manual_seed(0))
    factored = image
    for factor in factorise(corner, full_ranks(corner)).values():
        factored = factor(factored)
    error = relative_difference(factored, corner(image))
    return "" if error <= TOLERANCE else f"factors of full rank differ from the layer by {error:.1e} of its outputs' scale"


def _corner(layer: Layer) -> Layer:
    """The same layer with its first outputs and inputs alone."""
    corner = copy.copy(layer)
    corner._parameters = dict(layer._parameters)
    weight = layer.weight.detach()[:_CORNER, :_CORNER].clone()
    corner.weight = nn.Parameter(weight)
    corner.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach()[:_CORNER].clone())
    if isinstance(corner, nn.Conv2d):
        corner.out_channels, corner.in_channels = weight.shape[:2]
    else:
        corner.out_features, corner.in_features = weight.shape
    return corner


def ranks_for_energy(network: Network, layer: str, energy: float) -> tuple[int, ...]:
    """Smallest ranks of a layer that keep ``energy`` of its weights' squared norm, before rounding to the target's multiple.

    ``(rank,)`` for linears and 1x1 convolutions, ``(r_out, r_in)`` otherwise.

    Raises:
        ConfigError: no such layer.
        DataRequiredError: the network is on meta.
    """
    module = _known(_float_layers(network), layer)
    if network.is_meta:
        raise DataRequiredError(f"low_rank: energies[{layer!r}] needs real weights; resolve it to ranks first")
    return energy_ranks(module, energy)


def _float_layers(network: Network) -> dict[str, Layer]:
    return {name: layer for name, layer in network.layers().items() if layer.weight.is_floating_point()}


def _known(layers: Mapping[str, Layer], name: str) -> Layer:
    if name not in layers:
        raise ConfigError(f"low_rank: {name!r} is no layer that can be factorised; known: {sorted(layers)}")
    return layers[name]


def _as_ranks(name: str, value: int | Sequence[int], layer: Layer) -> tuple[int, ...]:
    ranks = (value,) if isinstance(value, int) else tuple(value)
    wanted = 1 if is_matrix(layer) else 2
    if wanted == 1 and len(ranks) == 2:
        raise ConfigError(f"low_rank: ranks[{name!r}] = {value!r}; a linear or 1x1 convolution has a single rank")
    return ranks * 2 if len(ranks) < wanted else ranks


def _rounded(ranks: tuple[int, ...], layer: Layer, context: TechniqueContext) -> tuple[int, ...]:
    multiple = context.channel_multiple
    return tuple(min(math.ceil(r / multiple) * multiple, most) for r, most in zip(ranks, full_ranks(layer), strict=True))


def _positions(network: Network) -> dict[str, tuple[int, int]]:
    """Positions at which each layer reads and writes for one image: ``(input, output)``."""
    shapes = node_shapes(network)
    found: dict[str, tuple[int, int]] = {}
    for node, module in network.module_calls():
        if isinstance(module, nn.Conv2d):
            source, result = shapes[node.all_input_nodes[0].name], shapes[node.name]
            found[str(node.target)] = (source[-2] * source[-1], result[-2] * result[-1])
        elif isinstance(module, nn.Linear):
            count = math.prod(shapes[node.name]) // module.out_features
            found[str(node.target)] = (count, count)
    return found


def _saves(layer: Layer, ranks: tuple[int, ...], positions: tuple[int, int]) -> bool:
    before, after = layer.weight.numel(), factor_shapes(layer, ranks)
    source, result = positions
    # Tucker's first factor runs before the stride, SVD's carries it.
    macs = after[0] * (source if len(ranks) == 2 else result) + sum(after[1:]) * result
    return sum(after) < before and macs < before * result


def _replace(graph: fx.GraphModule, name: str, ranks: tuple[int, ...]) -> None:
    node = next(n for n in graph.graph.nodes if n.op == "call_module" and n.target == name)
    layer = graph.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    factors = factorise(layer, ranks)
    parent, _, leaf = name.rpartition(".")
    setattr(graph.get_submodule(parent), leaf, factors)
    value = node.args[0]
    with graph.graph.inserting_before(node):
        for factor in factors:
            value = graph.graph.call_module(f"{name}.{factor}", (value,))
    node.replace_all_uses_with(value)
    graph.graph.erase_node(node)
