from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import nn

from techniques.context import TechniqueContext
from techniques.errors import ConfigError, DataRequiredError
from techniques.lift import from_module
from techniques.network import Network
from techniques.pruning.block_removal import BlockRemoval, BlockRemovalConfig, removable_blocks
from techniques.pruning.structured import PruningGroup, StructuredPruning, StructuredPruningConfig, groups, unproven
from tests.techniques.digits import accuracy, context, digits, outputs, trained, untrained


@dataclass(frozen=True)
class Rounding:
    label: str
    channels: int
    multiple: int
    ratio: float
    kept: int


@pytest.mark.parametrize(
    "case",
    [
        Rounding("nothing asked", 20, 8, 0.0, 20),
        Rounding("nearest multiple", 64, 8, 0.3, 48),
        Rounding("at least one multiple", 64, 8, 0.95, 8),
        Rounding("fewer channels than a multiple", 6, 8, 0.5, 6),
        Rounding("free counts", 10, 1, 0.33, 7),
        Rounding("never more than there are", 20, 8, 0.01, 20),
    ],
    ids=lambda c: c.label,
)
def test_kept_channels(case: Rounding) -> None:
    assert PruningGroup("layer", case.channels, (), 0.0, case.multiple).kept(case.ratio) == case.kept


def test_groups_couple_what_a_shortcut_joins() -> None:
    found = groups(untrained().to_meta(), context())
    assert list(found) == ["stem.0", "blocks.0.conv1", "blocks.1.conv1", "blocks.1.conv2", "blocks.2.conv1", "blocks.2.conv2"]
    assert {"stem.0", "blocks.0.conv2", "blocks.1.shortcut.0"} <= set(found["stem.0"].layers)
    assert found["blocks.0.conv1"].layers == ("blocks.0.conv1", "blocks.0.conv2")
    assert 0 < found["blocks.0.conv1"].macs_share < 1


def test_the_classifier_is_never_a_group() -> None:
    assert "classifier" not in groups(untrained(), context())


def test_a_group_is_left_out_when_one_of_its_layers_is_out_of_scope() -> None:
    found = groups(untrained(), context(scopes=("blocks.0.*", "blocks.1.*")))
    assert list(found) == ["blocks.0.conv1", "blocks.1.conv1"]


def test_removed_channels_are_those_of_least_norm() -> None:
    network = untrained().clone()
    conv = network.graph.get_submodule("blocks.0.conv1")
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        conv.weight[::2] *= 1e-3
    pruned = StructuredPruning().apply(network, StructuredPruningConfig({"blocks.0.conv1": 0.5}), context())
    assert torch.equal(pruned.graph.get_submodule("blocks.0.conv1").weight, conv.weight[1::2])


@pytest.mark.parametrize("importance", ["l2", "taylor"])
def test_channels_without_effect_go_first(importance: str) -> None:
    network = trained().clone()
    norm = network.graph.get_submodule("blocks.1.bn1")
    following = network.graph.get_submodule("blocks.1.conv2")
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(following, nn.Conv2d)
    conv = network.graph.get_submodule("blocks.1.conv1")
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        conv.weight[8:16] *= 1e-6
        norm.weight[8:16] = 0
        norm.bias[8:16] = 0
        following.weight[:, 8:16] = 0
    config = StructuredPruningConfig({"blocks.1.conv1": 0.25}, importance)  # type: ignore[arg-type]
    pruned = StructuredPruning().apply(network, config, context())
    images = digits()[1].images
    torch.testing.assert_close(outputs(pruned, images), outputs(network, images), rtol=1e-4, atol=1e-4)


def test_taylor_without_data_says_so() -> None:
    with pytest.raises(DataRequiredError, match="calibration"):
        StructuredPruning().apply(untrained(), StructuredPruningConfig({"stem.0": 0.5}, "taylor"), TechniqueContext())


class Grouped(nn.Module):
    """A grouped and a depthwise convolution between plain ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.last = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(torch.relu(self.grouped(torch.relu(self.first(x)))))
        return self.last(y.mean((2, 3)))  # type: ignore[no-any-return]


def test_grouped_and_depthwise_convolutions_stay_consistent() -> None:
    network = from_module(Grouped(), (3, 8, 8))
    found = groups(network, context())
    config = StructuredPruningConfig(dict.fromkeys(found, 0.5))
    pruned = StructuredPruning().apply(network, config, context())
    grouped, depthwise = pruned.layers()["grouped"], pruned.layers()["depthwise"]
    assert isinstance(grouped, nn.Conv2d)
    assert isinstance(depthwise, nn.Conv2d)
    assert grouped.groups == 4
    assert depthwise.groups == depthwise.out_channels == 16
    assert pruned(torch.randn(7, 3, 8, 8)).shape == (7, 5)


def test_a_grouped_convolution_can_be_pruned_until_its_groups_read_one_channel_and_on() -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=8), nn.Flatten(), nn.Linear(256, 5))
    network, free = from_module(module.eval(), (3, 8, 8)), TechniqueContext(channel_multiple=1)
    for left in (8, 4):
        network = StructuredPruning().apply(network, StructuredPruningConfig({"0": 0.5}), free)
        assert unproven(network, free) == {}
        assert network.layers()["0"].out_channels == left
        assert network(torch.randn(3, 3, 8, 8)).shape == (3, 5)


@dataclass(frozen=True)
class Family:
    name: str
    build: Callable[[], nn.Module]
    expected_blocks: int


FAMILIES = (
    Family("resnet18", torchvision.models.resnet18, 5),
    Family("mobilenet_v2", torchvision.models.mobilenet_v2, 10),
    Family("efficientnet_b0", torchvision.models.efficientnet_b0, 9),
    Family("convnext_tiny", torchvision.models.convnext_tiny, 18),
)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda f: f.name)
def family(request: pytest.FixtureRequest) -> tuple[Family, Network]:
    with torch.device("cpu"):
        torch.manual_seed(0)
        return request.param, from_module(request.param.build().eval(), (3, 64, 64))


def test_identity_blocks_of_known_families_are_found_and_removed(family: tuple[Family, Network]) -> None:
    expected, network = family
    blocks = removable_blocks(network.to_meta())
    assert len(blocks) == expected.expected_blocks
    assert len({block.name for block in blocks}) == len(blocks)
    smaller = BlockRemoval().apply(network, BlockRemovalConfig([block.name for block in blocks]), TechniqueContext())
    assert network.parameter_count() - smaller.parameter_count() == sum(block.parameters for block in blocks)
    assert smaller(torch.randn(2, 3, 64, 64)).shape == (2, 1000)
    assert removable_blocks(smaller) == ()


def test_a_removed_block_equals_a_branch_of_zeros() -> None:
    network = trained().clone()
    norm = network.graph.get_submodule("blocks.0.bn2")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.zero_()
    smaller = BlockRemoval().apply(network, BlockRemovalConfig(["blocks.0"]), context())
    images = digits()[1].images
    assert torch.equal(outputs(smaller, images), outputs(network, images))
    assert accuracy(smaller) == accuracy(network)


def test_neighbouring_blocks_go_together() -> None:
    from examples.resnet import ResNet

    network = from_module(ResNet(20), (1, 8, 8))
    smaller = BlockRemoval().apply(network, BlockRemovalConfig(["blocks.0", "blocks.1", "blocks.2"]), TechniqueContext())
    assert not [name for name in smaller.layers() if name.startswith(("blocks.0", "blocks.1", "blocks.2"))]
    assert smaller(torch.randn(3, 1, 8, 8)).shape == (3, 10)


def test_blocks_out_of_scope_stay() -> None:
    with pytest.raises(ConfigError, match=r"blocks\.0"):
        BlockRemoval().apply(untrained(), BlockRemovalConfig(["blocks.0"]), context(scopes=("blocks.1*",)))


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "googlenet", "squeezenet1_1", "shufflenet_v2_x0_5", "resnext50_32x4d"]
)
def test_meta_networks_are_pruned_to_the_shapes_of_real_ones(name: str) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    network = from_module(torchvision.models.get_model(name, weights=None, **options).eval(), (3, 64, 64))
    free = TechniqueContext(channel_multiple=1)
    draws = torch.rand(len(groups(network, free)), generator=torch.Generator().manual_seed(1))
    ratios = {group: float(draw) * 0.6 for group, draw in zip(groups(network, free), draws, strict=True)}
    config = StructuredPruningConfig(ratios=ratios)
    real, meta = (StructuredPruning().apply(n, config, free) for n in (network, network.to_meta()))
    if name.startswith("shufflenet"):
        # What each half of a shuffle loses depends on which channels are weak, and that no meta network knows.
        assert meta.parameter_count() == pytest.approx(real.parameter_count(), rel=0.1)
    else:
        shapes = [{k: tuple(v.shape) for k, v in n.graph.state_dict().items()} for n in (real, meta)]
        assert shapes[0] == shapes[1]
    assert meta(meta.example_input(2)).shape == real(real.example_input(2)).shape
