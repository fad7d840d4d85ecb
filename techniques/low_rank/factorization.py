"""Low-rank factors of one layer: truncated SVD for matrices, Tucker-2 for convolution kernels.

Both give layers that compute the same map as the original where the ranks are full, and the nearest one (SVD: exactly;
Tucker: by higher-order orthogonal iteration) in the Frobenius norm of the weights where they are not.
"""

from __future__ import annotations

import torch
from tensorly.decomposition import partial_tucker
from torch import Tensor, nn

Layer = nn.Conv2d | nn.Linear


def is_matrix(layer: Layer) -> bool:
    """Whether the layer is one matrix applied at every position (a linear or a 1x1 convolution): one rank, SVD."""
    return isinstance(layer, nn.Linear) or (tuple(layer.kernel_size) == (1, 1) and tuple(layer.padding) == (0, 0))


def full_ranks(layer: Layer) -> tuple[int, ...]:
    """The ranks at which nothing is lost: ``(rank,)`` for matrices, ``(out, in)`` for kernels."""
    outputs, inputs = layer.weight.shape[:2]
    if is_matrix(layer):
        return (min(outputs, inputs),)
    return (min(outputs, layer.weight[0].numel()), min(inputs, layer.weight[:, 0].numel()))


def energy_ranks(layer: Layer, energy: float) -> tuple[int, ...]:
    """Smallest ranks whose singular values keep ``energy`` of the squared norm of every unfolding.

    For kernels these are the unfoldings along outputs and inputs (higher-order SVD, De Lathauwer et al. 2000).
    """
    weight = layer.weight.detach().double()
    unfoldings = [weight.flatten(1)] if is_matrix(layer) else [weight.flatten(1), weight.transpose(0, 1).flatten(1)]
    return tuple(_rank_for(torch.linalg.svdvals(matrix), energy) for matrix in unfoldings)


def _rank_for(singular_values: Tensor, energy: float) -> int:
    share = singular_values.square().cumsum(0)
    if not float(share[-1]) > 0:
        return 1
    return min(int((share / share[-1] < energy).sum()) + 1, len(share))


def factor_shapes(layer: Layer, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """Weights of each factor, in the order of execution, without biases."""
    outputs, inputs = layer.weight.shape[:2]
    if len(ranks) == 1:
        return (ranks[0] * inputs, outputs * ranks[0])
    area = layer.weight.shape[2] * layer.weight.shape[3]
    return (ranks[1] * inputs, ranks[0] * ranks[1] * area, outputs * ranks[0])


def factorise(layer: Layer, ranks: tuple[int, ...]) -> nn.ModuleDict:
    """Factors by name, in the order of execution: ``reduce, expand`` (SVD) or ``reduce, core, expand`` (Tucker-2)."""
    return _svd(layer, ranks[0]) if len(ranks) == 1 else _tucker(layer, ranks[0], ranks[1])


def _svd(layer: Layer, rank: int) -> nn.ModuleDict:
    """Denton et al. 2014, section 3.2: W = U S V^T cut at ``rank``, S shared by both sides."""
    outputs, inputs = layer.weight.shape[:2]
    if isinstance(layer, nn.Linear):
        first: nn.Module = nn.Linear(inputs, rank, bias=False, device=layer.weight.device)
        second: nn.Module = nn.Linear(rank, outputs, bias=layer.bias is not None, device=layer.weight.device)
    else:
        first = _pointwise(inputs, rank, layer.weight.device, stride=layer.stride)
        second = _pointwise(rank, outputs, layer.weight.device, bias=layer.bias is not None)
    if not layer.weight.is_meta:
        u, s, v = torch.linalg.svd(layer.weight.detach().flatten(1).double(), full_matrices=False)
        root = s[:rank].sqrt()
        _fill(first, root[:, None] * v[:rank])
        _fill(second, u[:, :rank] * root, layer.bias)
    return nn.ModuleDict({"reduce": first, "expand": second})


def _tucker(layer: Layer, rank_out: int, rank_in: int) -> nn.ModuleDict:
    """Kim et al. 2016, section 3.1, equations 4-7: two 1x1 convolutions around a thinner core."""
    assert isinstance(layer, nn.Conv2d)  # linears are matrices
    outputs, inputs = layer.weight.shape[:2]
    device = layer.weight.device
    first = _pointwise(inputs, rank_in, device)
    core = nn.Conv2d(
        rank_in, rank_out, layer.kernel_size, layer.stride, layer.padding, layer.dilation,  # type: ignore[arg-type]
        bias=False, padding_mode=layer.padding_mode, device=device,
    )  # fmt: skip
    last = _pointwise(rank_out, outputs, device, bias=layer.bias is not None)
    if not layer.weight.is_meta:
        weight = layer.weight.detach().double().numpy()
        (kernel, (left, right)), _ = partial_tucker(weight, rank=[rank_out, rank_in], modes=[0, 1], init="svd", n_iter_max=25)
        _fill(first, torch.from_numpy(right.T.copy()))
        _fill(core, torch.from_numpy(kernel))
        _fill(last, torch.from_numpy(left), layer.bias)
    return nn.ModuleDict({"reduce": first, "core": core, "expand": last})


def _pointwise(inputs: int, outputs: int, device: torch.device, stride: tuple[int, ...] = (1, 1), bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, (stride[0], stride[1]), bias=bias, device=device)


@torch.no_grad()
def _fill(module: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    assert isinstance(module, nn.Conv2d | nn.Linear)
    module.weight.copy_(weight.reshape(module.weight.shape))
    if bias is not None and module.bias is not None:
        module.bias.copy_(bias)
