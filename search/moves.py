"""Moves: the single compressions whose sensitivity is measured and that the allocation combines into a recipe."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import nn

from search.attempts import Attempts
from search.errors import OptionSkippedError
from search.space import Policy
from techniques.apply import apply_recipe
from techniques.context import TechniqueContext
from techniques.low_rank.decompose import unproven_layers
from techniques.network import Network
from techniques.pruning.block_removal import removable_blocks, unproven_blocks
from techniques.pruning.structured import offered_groups
from techniques.recipe import Recipe, Step

PRUNING_RATIOS = (0.25, 0.5)
RANK_FRACTIONS = (0.5, 0.25)
MIN_LOW_RANK_CHANNELS = 16
PROOF_S = 120.0
"""What is offered is proven on the network itself; so long may running it take beside finding the places."""
Kind = Literal["block", "prune", "rank"]


@dataclass(frozen=True)
class Move:
    """One compression of one place.

    Attributes:
        name: the block, pruning group or layer.
        strength: the ratio of channels removed; 1 - the fraction of the rank kept; 1 for a block.
        layers: what it touches; a removed block makes moves inside it meaningless.
    """

    kind: Kind
    name: str
    strength: float
    layers: tuple[str, ...]

    @property
    def move_id(self) -> str:
        """Unique in a network."""
        return f"{self.kind}:{self.name}:{self.strength:g}"


@dataclass(frozen=True)
class PossibleMoves:
    """What can be tried on a network. ``skipped``: technique -> why its places could not be found."""

    moves: tuple[Move, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)


def possible_moves(network: Network, context: TechniqueContext, techniques: Collection[str], attempts: Attempts) -> PossibleMoves:
    """All single moves on this network that the request allows, weakest strength first at each place.

    Raises:
        OutsideError: the search is to stop.
    """
    moves: list[Move] = []
    skipped: dict[str, str] = {}
    for technique, find in _FINDERS.items():
        if technique in techniques:
            attempts.show("sensitivity", f"finding and proving what {technique} can do")
            try:
                moves += attempts.attempt(f"places of {technique}", partial(find, network, context), PROOF_S)
            except OptionSkippedError as error:
                skipped[technique] = str(error)
    return PossibleMoves(tuple(moves), skipped)


def _blocks(network: Network, context: TechniqueContext) -> list[Move]:
    wrong = unproven_blocks(network, context)
    blocks = [b for b in removable_blocks(network) if b.name not in wrong and all(context.in_scope(layer) for layer in b.layers)]
    return [Move("block", b.name, 1.0, b.layers) for b in blocks]


def _prunings(network: Network, context: TechniqueContext) -> list[Move]:
    moves = []
    for group in offered_groups(network, context).values():
        kept = {group.channels}
        for ratio in PRUNING_RATIOS:
            if group.kept(ratio) not in kept:
                kept.add(group.kept(ratio))
                moves.append(Move("prune", group.name, ratio, group.layers))
    return moves


def _factorings(network: Network, context: TechniqueContext) -> list[Move]:
    wrong = {} if network.is_meta else unproven_layers(network, context)
    layers = network.layers().items()
    names = [name for name, layer in layers if name not in wrong and context.in_scope(name) and _can_factor(layer)]
    return [Move("rank", name, 1 - fraction, (name,)) for name in names for fraction in RANK_FRACTIONS]


_FINDERS: Mapping[str, Callable[[Network, TechniqueContext], list[Move]]] = {
    "block_removal": _blocks,
    "structured_pruning": _prunings,
    "low_rank": _factorings,
}


def _can_factor(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return (
            layer.groups == 1
            and min(layer.in_channels, layer.out_channels) >= 2 * MIN_LOW_RANK_CHANNELS
            and layer.kernel_size != (1, 1)
        )
    return isinstance(layer, nn.Linear) and min(layer.in_features, layer.out_features) >= 4 * MIN_LOW_RANK_CHANNELS


def recipe_of(moves: Iterable[Move], policy: Policy, network: Network, context: TechniqueContext, distil: bool = True) -> Recipe:
    """The recipe that makes these moves under a policy: resolution, blocks, channels, ranks, training, bits, in this order.

    Args:
        network: the original on the meta device; ranks follow from the shapes that are left once channels are pruned.
        distil: whether a distillation step belongs into it.
    """
    by_kind: dict[Kind, list[Move]] = {"block": [], "prune": [], "rank": []}
    for move in moves:
        by_kind[move.kind].append(move)
    steps: list[Step] = []
    if policy.resolution_scale < 1:
        _, height, width = network.input_shape
        size = {"height": round(height * policy.resolution_scale), "width": round(width * policy.resolution_scale)}
        steps.append(Step("input_resolution", size))
    if by_kind["block"]:
        steps.append(Step("block_removal", {"blocks": sorted(m.name for m in by_kind["block"])}))
    if by_kind["prune"]:
        ratios = {m.name: m.strength for m in by_kind["prune"]}
        steps.append(Step("structured_pruning", {"ratios": ratios, "importance": policy.importance}))
    if by_kind["rank"]:
        layers = apply_recipe(network, Recipe(tuple(steps)), context).layers()
        ranks = _ranks(by_kind["rank"], layers, context.channel_multiple)
        if ranks:
            steps.append(Step("low_rank", {"ranks": ranks}))
    if distil:
        steps.append(
            Step(
                "distillation",
                {"temperature": policy.temperature, "alpha": policy.alpha, "learning_rate": policy.learning_rate},
            )
        )
    if policy.precision == "int8":
        steps.append(Step("int8_quantization", {"reduce_range": context.reduced_weight_range}))
    return Recipe(tuple(steps))


def _ranks(moves: Sequence[Move], layers: Mapping[str, nn.Module], multiple: int) -> dict[str, Any]:
    ranks: dict[str, Any] = {}
    for move in moves:
        layer = layers.get(move.name)
        if isinstance(layer, nn.Conv2d):
            pair = [_rank(n, 1 - move.strength, multiple) for n in (layer.out_channels, layer.in_channels)]
            if pair[0] < layer.out_channels or pair[1] < layer.in_channels:
                ranks[move.name] = pair
        elif isinstance(layer, nn.Linear):
            ranks[move.name] = _rank(min(layer.in_features, layer.out_features), 1 - move.strength, multiple)
    return ranks


def _rank(full: int, fraction: float, multiple: int) -> int:
    return min(full, max(multiple, round(full * fraction / multiple) * multiple))
