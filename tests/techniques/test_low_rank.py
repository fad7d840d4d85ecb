from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from techniques.errors import ConfigError, DataRequiredError
from techniques.lift import from_module
from techniques.low_rank.decompose import LowRank, LowRankConfig, decomposable_layers, ranks_for_energy
from techniques.low_rank.factorization import energy_ranks, factorise, full_ranks
from techniques.shapes import layer_macs
from tests.techniques.digits import accuracy, context, shapes, trained, untrained


@dataclass(frozen=True)
class LayerCase:
    label: str
    layer: nn.Conv2d | nn.Linear
    input_shape: tuple[int, ...]


LAYERS = (
    LayerCase("linear", nn.Linear(24, 16), (3, 24)),
    LayerCase("1x1 stride 2", nn.Conv2d(24, 16, 1, stride=2), (3, 24, 9, 9)),
    LayerCase("3x3 no bias", nn.Conv2d(16, 24, 3, padding=1, bias=False), (3, 16, 9, 9)),
    LayerCase("5x3 strided dilated", nn.Conv2d(16, 24, (5, 3), stride=2, padding=(2, 1), dilation=(1, 2)), (3, 16, 13, 13)),
    LayerCase("padded 1x1", nn.Conv2d(16, 24, 1, padding=1), (3, 16, 9, 9)),
)


@pytest.mark.parametrize("case", LAYERS, ids=lambda c: c.label)
@torch.no_grad()
def test_full_ranks_compute_the_same(case: LayerCase) -> None:
    factors = factorise(case.layer, full_ranks(case.layer))
    x = torch.randn(case.input_shape, generator=torch.Generator().manual_seed(0))
    y = x
    for factor in factors.values():
        y = factor(y)
    torch.testing.assert_close(y, case.layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", LAYERS, ids=lambda c: c.label)
@torch.no_grad()
def test_half_ranks_of_a_half_rank_layer_lose_nothing(case: LayerCase) -> None:
    half = tuple(max(1, rank // 2) for rank in full_ranks(case.layer))
    thin = factorise(case.layer, half)
    x = torch.randn(case.input_shape, generator=torch.Generator().manual_seed(0))
    # Compose the thin factors back into one layer of low rank, then factorise that one.
    layer = type(case.layer).__new__(type(case.layer))
    layer.__dict__.update(case.layer.__dict__)
    layer._parameters = dict(case.layer._parameters)
    core = [factor.weight for factor in thin.values()]
    if len(core) == 2:
        weight = (core[1].flatten(1) @ core[0].flatten(1)).reshape(case.layer.weight.shape)
    else:
        weight = torch.einsum("or,rskl,si->oikl", core[2].flatten(1), core[1], core[0].flatten(1))
    layer.weight = nn.Parameter(weight)
    assert all(found <= rank for found, rank in zip(energy_ranks(layer, 0.999999), half, strict=True))
    y = x
    for factor in factorise(layer, half).values():
        y = factor(y)
    torch.testing.assert_close(y, layer(x), rtol=1e-3, atol=1e-4)


def test_more_energy_needs_no_lower_rank_and_all_of_it_the_full_one() -> None:
    found = [ranks_for_energy(trained(), "blocks.2.conv2", energy) for energy in (0.3, 0.6, 0.9, 1.0)]
    assert found == sorted(found)
    assert found[-1] == (64, 64)


def test_ranks_are_rounded_up_to_the_multiple() -> None:
    result = LowRank().apply(untrained(), LowRankConfig({"blocks.2.conv2": [9, 17]}), context())
    assert shapes(result)["blocks.2.conv2.core.weight"] == (16, 24, 3, 3)


def test_energies_resolve_to_ranks_that_replay_on_meta() -> None:
    config = LowRank().resolved(trained(), LowRankConfig(energies={"blocks.2.conv2": 0.6, "blocks.1.conv2": 1.0}), context())
    assert list(config.ranks) == ["blocks.2.conv2"], "full energy saves nothing and leaves the layer alone"
    real = LowRank().apply(trained(), config, context())
    assert shapes(real) == shapes(LowRank().apply(trained().to_meta(), config, context()))
    assert sum(layer_macs(real).values()) < sum(layer_macs(trained()).values())
    assert accuracy(real) > 0.5


def test_energies_on_meta_need_real_weights() -> None:
    with pytest.raises(DataRequiredError, match="real weights"):
        LowRank().apply(untrained().to_meta(), LowRankConfig(energies={"blocks.2.conv2": 0.5}), context())


@dataclass(frozen=True)
class Refusal:
    label: str
    ranks: dict[str, object]
    match: str


@pytest.mark.parametrize(
    "case",
    [
        Refusal("saves nothing", {"blocks.2.conv2": 64}, "saves no"),
        Refusal("not there", {"blocks.9": 8}, r"blocks\.9"),
        Refusal("two ranks for a matrix", {"blocks.2.shortcut.0": [8, 8]}, "single rank"),
    ],
    ids=lambda c: c.label,
)
def test_refusals(case: Refusal) -> None:
    with pytest.raises(ConfigError, match=case.match):
        LowRank().apply(untrained(), LowRank().parse_config({"ranks": case.ranks}), context())


def test_scopes_and_groups_are_respected() -> None:
    assert set(decomposable_layers(untrained(), context(scopes=("blocks.2.conv*",)))) == {"blocks.2.conv1", "blocks.2.conv2"}
    depthwise = nn.Sequential(nn.Conv2d(32, 32, 3, groups=32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    assert not decomposable_layers(from_module(depthwise, (32, 8, 8)), context())
