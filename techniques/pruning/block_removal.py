"""Depth pruning: an identity residual block leaves, its shortcut stays (the idea of Veit et al. 2016, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from techniques.base import Transform
from techniques.channels.proof import TOLERANCE, relative_difference
from techniques.context import TechniqueContext
from techniques.disproof import disproved
from techniques.errors import ConfigError
from techniques.network import Network
from techniques.option import Option
from techniques.recipe import Step
from techniques.shapes import layer_macs, node_shapes

_ADD = frozenset({"aten.add.Tensor", "aten.add_.Tensor"})
_RELU = frozenset({"aten.relu.default", "aten.relu_.default"})


@dataclass(frozen=True)
class BlockRemovalConfig:
    """Names of the blocks to remove, as `removable_blocks` gives them."""

    blocks: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.blocks, str) or not all(isinstance(name, str) for name in self.blocks):
            raise ValueError(f"blocks must be a list of block names, got {self.blocks!r}")
        if len(set(self.blocks)) != len(self.blocks):
            raise ValueError(f"blocks names a block twice: {list(self.blocks)}")
        object.__setattr__(self, "blocks", tuple(self.blocks))


@dataclass(frozen=True)
class Block:
    """An identity residual block: ``output = shortcut + branch(shortcut)``.

    Attributes:
        name: common module path of the branch's layers; the last layer's name where there is none.
        layers: the branch's convolutions and linears in execution order.
        macs, parameters: what leaves with the branch, per image.
        shortcut_node, sum_node: names of the graph nodes.
    """

    name: str
    layers: tuple[str, ...]
    macs: int
    parameters: int
    shortcut_node: str
    sum_node: str


class BlockRemoval(Transform[BlockRemovalConfig]):
    """Replace the sum of a residual block by its shortcut."""

    name = "block_removal"
    config_type = BlockRemovalConfig
    axis = stage = "depth"
    cites = "after Veit et al. 2016, section 4.1"
    not_supported_on = "blocks whose shortcut changes the shape"
    reduces = frozenset({"parameters", "macs", "layers"})

    def options(self, network: Network, context: TechniqueContext) -> Sequence[Option]:
        """Each block that may leave."""
        wrong = unproven_blocks(network, context)
        blocks = [block for name, block in _in_scope(network, context).items() if name not in wrong]
        return [Option(self.name, self.axis, block.name, 1.0, block.layers, removes=True) for block in blocks]

    def step(
        self, network: Network, options: Sequence[Option], settings: Mapping[str, Any], context: TechniqueContext
    ) -> Step | None:
        """The blocks by name."""
        return self.make_step({"blocks": sorted(option.place for option in options)})

    def apply(self, network: Network, config: BlockRemovalConfig, context: TechniqueContext) -> Network:
        """See the base; needs no data."""
        found = _in_scope(network, context)
        unknown = sorted(set(config.blocks) - set(found))
        if unknown:
            raise ConfigError(f"block_removal: {unknown} are no identity residual blocks in scope; known: {sorted(found)}")
        result = network.clone()
        nodes = {node.name: node for node in result.graph.graph.nodes}
        # A removed block's sum may be the next one's shortcut: follow it to what stands there now.
        moved: dict[str, fx.Node] = {}
        for block in (b for name, b in found.items() if name in config.blocks):
            total = nodes[block.sum_node]
            moved[block.sum_node] = _bypass(total, moved.get(block.shortcut_node, nodes[block.shortcut_node]), moved)
        return result.rebuilt()


def removable_blocks(network: Network) -> tuple[Block, ...]:
    """Identity residual blocks in execution order; meta networks work too."""
    shapes = node_shapes(network)
    macs = layer_macs(network, shapes)
    layers = network.layers()
    blocks: list[Block] = []
    for node in network.graph.graph.nodes:
        if node.op != "call_function" or str(node.target) not in _ADD or len(node.all_input_nodes) != 2:
            continue
        for shortcut, branch in (node.args[:2], node.args[1::-1]):
            region = _branch_region(shortcut, branch, node)
            if region is None or shapes[shortcut.name] != shapes[branch.name]:
                continue
            inside = [n for n in network.graph.graph.nodes if n in region and n.op == "call_module"]
            names = tuple(str(n.target) for n in inside if str(n.target) in layers)
            if not names or any(n.target in {o.target for o in _outside_calls(network, region)} for n in inside):
                continue
            count = sum(p.numel() for n in inside for p in network.graph.get_submodule(str(n.target)).parameters())
            taken = {block.name for block in blocks}
            name = _block_name([str(n.target) for n in inside], names[-1], taken)
            blocks.append(Block(name, names, sum(macs[layer] for layer in names), count, shortcut.name, node.name))
            break
    return tuple(blocks)


def unproven_blocks(network: Network, context: TechniqueContext) -> dict[str, str]:
    """Blocks without which a network does not compute what it does when their branches yield zeros (contract 16); real weights."""
    found = {} if network.is_meta else _in_scope(network, context)
    images = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(0))

    def trial(names: Sequence[str]) -> str:
        smaller = BlockRemoval().apply(network, BlockRemovalConfig(list(names)), context).eval()
        nodes = {node.name: node for node in network.graph.graph.nodes}
        branches = set()
        for block in (found[name] for name in names):
            total = nodes[block.sum_node]
            branches |= {n.name for n in total.all_input_nodes if n.name != block.shortcut_node}
        with torch.no_grad():
            reference = _WithoutBranches(network.clone().eval().graph, branches).run(images)
            error = relative_difference(smaller(images), reference)
        return "" if error <= TOLERANCE else f"without it the outputs differ by {error:.1e} of their scale from its identity's"

    return disproved(list(found), trial)


class _WithoutBranches(fx.Interpreter):
    """Runs a graph in which some nodes yield zeros."""

    def __init__(self, graph: fx.GraphModule, branches: set[str]) -> None:
        super().__init__(graph)
        self._branches = branches

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        return torch.zeros_like(value) if n.name in self._branches else value


def _in_scope(network: Network, context: TechniqueContext) -> dict[str, Block]:
    return {b.name: b for b in removable_blocks(network) if all(context.in_scope(layer) for layer in b.layers)}


def _outside_calls(network: Network, region: set[fx.Node]) -> list[fx.Node]:
    return [node for node, _ in network.module_calls() if node not in region]


def _branch_region(shortcut: fx.Node, branch: fx.Node, total: fx.Node) -> set[fx.Node] | None:
    """Nodes from the shortcut to the sum, if the branch reads nothing else and nobody else reads the branch."""
    region: set[fx.Node] = set()
    pending = [branch]
    while pending:
        node = pending.pop()
        if node is shortcut or node in region:
            continue
        if node.op == "placeholder":
            return None
        region.add(node)
        pending.extend(node.all_input_nodes)
    if branch not in region or not any(shortcut in node.all_input_nodes for node in region):
        return None
    computing = [node for node in region if node.op != "get_attr"]
    if any(user not in region and user is not total for node in computing for user in node.users):
        return None
    return region


def _block_name(modules: Sequence[str], last_layer: str, taken: set[str]) -> str:
    """The longest module path that holds every call of the branch."""
    split = [name.split(".")[:-1] for name in modules]
    common: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    name = ".".join(common)
    return name if name and name not in taken else last_layer


def _bypass(total: fx.Node, shortcut: fx.Node, moved: dict[str, fx.Node]) -> fx.Node:
    """Let the sum's readers read the shortcut; a ReLU of what is already a ReLU goes too."""
    users = list(total.users)
    total.replace_all_uses_with(shortcut)
    for user in users:
        if str(user.target) in _RELU and str(shortcut.target) in _RELU:
            user.replace_all_uses_with(shortcut)
            moved[user.name] = shortcut
        elif user.op == "call_function" and user.args[:1] == (shortcut,):
            _make_functional(user)
    return shortcut


def _make_functional(node: fx.Node) -> None:
    """Replace an in-place operation by its pure form: it would now overwrite a value that others read."""
    namespace, _, rest = str(node.target).partition(".")
    name, _, overload = rest.partition(".")
    if namespace == "aten" and name.endswith("_") and hasattr(torch.ops.aten, name[:-1]):
        node.target = getattr(getattr(torch.ops.aten, name[:-1]), overload)
