"""Parallel linear branches become one convolution (RepVGG, Ding 2021, section 3.3; MobileOne, Vasu 2023, section 3.2).

A sum of convolutions of one tensor, each with or without a batch norm behind it, and of batch norms of that tensor or the tensor
itself, is one convolution in evaluation mode: every branch is written as a kernel of the largest size, and the kernels are added.
Worked example, RepVGG's block of three: a 3x3 kernel stays, a 1x1 kernel is the centre of a 3x3 one, and the identity is a 1x1
kernel that passes each channel on. Computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from techniques.network import Network

aten = torch.ops.aten


@dataclass(frozen=True)
class _Branch:
    """One summand: the convolution (None for the tensor itself), the norm behind it, and what both are computed of."""

    source: fx.Node
    conv: nn.Conv2d | None
    norm: nn.BatchNorm2d | None
    path: str = ""


def merge_branches(network: Network) -> Network | None:
    """A copy in evaluation mode with every such sum as one convolution, exact up to rounding; None where there is none."""
    if not any(_branches(network, node) for node in network.graph.graph.nodes):
        return None
    result = network.clone().eval()
    for node in reversed(list(result.graph.graph.nodes)):
        found = _branches(result, node)
        if found:
            _merge(result, node, found)
    return result.rebuilt()


def _is_sum(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is aten.add.Tensor and not node.kwargs


def _summands(node: fx.Node) -> list[Any]:
    """What is added up in a tree of sums whose partial results nothing else reads; a Python ``sum`` starts from 0."""
    found: list[Any] = []
    for argument in node.args:
        inner = _is_sum(argument) and len(argument.users) == 1  # type: ignore[union-attr]
        found += _summands(argument) if inner else [argument]  # type: ignore[arg-type]
    return [item for item in found if not (isinstance(item, int | float) and item == 0)]


def _branches(network: Network, node: fx.Node) -> list[_Branch]:
    """What a sum adds up, where all of it is linear in one tensor and fits into one kernel; else nothing."""
    if not _is_sum(node) or (len(node.users) == 1 and _is_sum(next(iter(node.users)))):
        return []
    branches = [_branch(network, item) for item in _summands(node)]
    found = [b for b in branches if b is not None]
    convs = [b.conv for b in found if b.conv is not None]
    if len(found) < len(branches) or len(found) < 2 or not convs or len({b.source for b in found}) != 1:
        return []
    return found if all(_fits(b, _widest(convs)) for b in found) else []


def _widest(convs: list[nn.Conv2d]) -> nn.Conv2d:
    return max(convs, key=lambda conv: conv.weight[0, 0].numel())


def _merge(network: Network, node: fx.Node, branches: list[_Branch]) -> None:
    widest = _widest([b.conv for b in branches if b.conv is not None])
    path = next(b.path for b in branches if b.conv is widest)
    parent, _, leaf = path.rpartition(".")
    setattr(network.graph.get_submodule(parent), leaf, _sum_of(branches, widest))
    with network.graph.graph.inserting_before(node):
        call = network.graph.graph.call_module(path, (branches[0].source,))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    network.graph.graph.eliminate_dead_code()


def _branch(network: Network, item: Any) -> _Branch | None:
    """The branch that ends in a summand; the tensor itself where the summand is neither norm nor convolution."""
    if not isinstance(item, fx.Node):
        return None
    norm, node = None, item
    module = _module(network, node)
    if type(module) is nn.BatchNorm2d and len(node.users) == 1 and module.running_mean is not None:
        norm, node = module, node.args[0]  # type: ignore[assignment]
        module = _module(network, node)
        if type(module) is not nn.Conv2d or len(node.users) != 1:
            return _Branch(node, None, norm)
    if type(module) is nn.Conv2d and len(node.users) == 1 and module.padding_mode == "zeros":
        return _Branch(node.args[0], module, norm, str(node.target))  # type: ignore[arg-type]
    return _Branch(node, None, None)


def _module(network: Network, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, if nothing else calls it."""
    if node.op != "call_module":
        return None
    calls = [n for n in network.graph.graph.nodes if n.op == "call_module" and n.target == node.target]
    return network.graph.get_submodule(str(node.target)) if len(calls) == 1 else None


def _padding(conv: nn.Conv2d, axis: int) -> int:
    if isinstance(conv.padding, str):
        return conv.dilation[axis] * (conv.kernel_size[axis] - 1) // 2 if conv.padding == "same" else 0
    return int(conv.padding[axis])


def _offset(conv: nn.Conv2d, widest: nn.Conv2d, axis: int) -> int | None:
    """Where a smaller kernel begins in the widest one, along an axis; None where their outputs are not aligned."""
    moved = _padding(widest, axis) - _padding(conv, axis)
    spans = [c.dilation[axis] * (c.kernel_size[axis] - 1) for c in (widest, conv)]
    begins, rest = divmod(moved, widest.dilation[axis])
    aligned = rest == 0 and begins >= 0 and spans[0] - spans[1] == 2 * moved
    return begins if aligned else None


def _fits(branch: _Branch, widest: nn.Conv2d) -> bool:
    conv = branch.conv
    if conv is None:
        square = widest.in_channels == widest.out_channels and widest.stride == (1, 1)
        known = branch.norm is None or branch.norm.num_features == widest.in_channels
        return square and known and all(_padding(widest, a) * 2 == widest.dilation[a] * (widest.kernel_size[a] - 1) for a in (0, 1))
    same = (conv.in_channels, conv.out_channels, conv.stride, conv.groups)
    if same != (widest.in_channels, widest.out_channels, widest.stride, widest.groups):
        return False
    spread = all(conv.kernel_size[a] == 1 or conv.dilation[a] == widest.dilation[a] for a in (0, 1))
    even = all(not isinstance(c.padding, str) or all(k % 2 for k in c.kernel_size) for c in (conv, widest))
    return spread and even and all(_offset(conv, widest, a) is not None for a in (0, 1))


@torch.no_grad()
def _sum_of(branches: list[_Branch], widest: nn.Conv2d) -> nn.Conv2d:
    """The one convolution, of the widest branch's shape, with a bias."""
    merged = nn.Conv2d(
        widest.in_channels,
        widest.out_channels,
        (widest.kernel_size[0], widest.kernel_size[1]),
        (widest.stride[0], widest.stride[1]),
        (_padding(widest, 0), _padding(widest, 1)),
        (widest.dilation[0], widest.dilation[1]),
        widest.groups,
        device="meta",
    )
    weight = torch.zeros_like(widest.weight, dtype=torch.float64)
    bias = weight.new_zeros(widest.out_channels)
    for branch in branches:
        kernel, shift, begins = _kernel(branch, widest)
        if branch.norm is not None:
            factor, constant = _factors(branch.norm)
            kernel, shift = kernel * factor.reshape(-1, 1, 1, 1), shift * factor + constant
        height, width = kernel.shape[2:]
        weight[:, :, begins[0] : begins[0] + height, begins[1] : begins[1] + width] += kernel
        bias += shift
    merged.weight, merged.bias = nn.Parameter(weight.to(widest.weight.dtype)), nn.Parameter(bias.to(widest.weight.dtype))
    return merged.eval()


def _kernel(branch: _Branch, widest: nn.Conv2d) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Kernel, bias and place in the widest kernel of a branch, its norm left aside."""
    conv = branch.conv
    if conv is not None:
        begins = (_offset(conv, widest, 0) or 0, _offset(conv, widest, 1) or 0)
        bias = conv.bias.double() if conv.bias is not None else torch.zeros(conv.out_channels, dtype=torch.float64)
        return conv.weight.double(), bias, begins
    per_group = widest.in_channels // widest.groups
    kernel = torch.zeros(widest.out_channels, per_group, 1, 1, dtype=torch.float64)
    channels = torch.arange(widest.out_channels)
    kernel[channels, channels % per_group] = 1
    centre = (widest.kernel_size[0] // 2, widest.kernel_size[1] // 2)
    return kernel, torch.zeros(widest.out_channels, dtype=torch.float64), centre


def _factors(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Factor and constant per channel of a batch norm in evaluation mode."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics")
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    factor = factor if norm.weight is None else norm.weight.double() * factor
    constant = -norm.running_mean.double() * factor
    return factor, constant if norm.bias is None else norm.bias.double() + constant
