from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import Tensor, nn

from examples.resnet import ResNet
from techniques import lift, network_checks
from techniques.channel_ops import ChannelNorm, ChannelPermutation, ChannelScale, ChannelSlice
from techniques.errors import UnsupportedNetworkError
from techniques.lift import from_exported_program, from_module
from tests.techniques.small_networks import BakedView, ShuffleBlock, seeded


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    input_shape: tuple[int, int, int]


CASES = [
    Case("resnet8", lambda: ResNet(8), (1, 28, 28)),
    Case("baked_view", BakedView, (1, 14, 14)),
    Case("shuffle", ShuffleBlock, (3, 8, 8)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_lifted_network_equals_the_module_at_every_batch(case: Case) -> None:
    module = seeded(case.build())
    network = lift.from_module(module, case.input_shape)
    for batch in (1, 2, 7):
        images = torch.randn(batch, *case.input_shape)
        with torch.no_grad():
            assert network_checks.relative_error(network(images), module(images)) <= 1e-5
    assert network.is_classifier


@pytest.mark.parametrize("batch", [1, 4])
def test_a_static_batch_is_freed(batch: int) -> None:
    module = seeded(BakedView())
    program = torch.export.export(module, (torch.zeros(batch, 1, 14, 14),), strict=False)
    network = lift.from_exported_program(program)
    images = torch.randn(7, 1, 14, 14)
    with torch.no_grad():
        assert torch.allclose(network(images), module(images), atol=1e-6)


def test_core_aten_programs_are_lifted() -> None:
    module = seeded(ResNet(8))
    program = torch.export.export(module, (torch.zeros(2, 1, 28, 28),), strict=False).run_decompositions()
    network = lift.from_exported_program(program)
    kinds = {type(m) for _, m in network.module_calls()}
    assert {nn.Conv2d, nn.BatchNorm2d, nn.Linear} <= kinds
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        assert network_checks.relative_error(network(images), module(images)) <= 1e-5


def test_size_is_free_where_the_graph_allows_it() -> None:
    assert lift.from_module(seeded(ResNet(8)), (1, 28, 28)).size_is_free
    fixed = lift.from_module(seeded(BakedView()), (1, 14, 14))
    assert not fixed.size_is_free
    assert "fc" in fixed.size_note


def test_training_behaviour_is_restored() -> None:
    network = lift.from_module(seeded(BakedView()), (1, 14, 14)).train()
    norm = next(m for _, m in network.module_calls() if isinstance(m, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    images = torch.randn(8, 1, 14, 14)
    assert not torch.equal(network(images), network(images)), "dropout drops"
    assert not torch.equal(norm.running_mean, before), "statistics move"
    network.eval()
    frozen = norm.running_mean.clone()
    assert torch.equal(network(images), network(images))
    assert torch.equal(norm.running_mean, frozen)


def test_a_program_exported_in_training_mode_is_lifted() -> None:
    module = seeded(BakedView())
    program = torch.export.export(copy.deepcopy(module).train(), (torch.zeros(4, 1, 14, 14),), strict=False)
    network = lift.from_exported_program(program)
    images = torch.randn(5, 1, 14, 14)
    with torch.no_grad():
        assert torch.allclose(network(images), module(images), atol=1e-6)


@pytest.mark.parametrize("case", CASES[:3], ids=lambda c: c.name)
def test_gradients_reach_every_parameter(case: Case) -> None:
    network = lift.from_module(seeded(case.build()), case.input_shape).train()
    network(torch.randn(4, *case.input_shape)).square().sum().backward()
    assert all(p.grad is not None for p in network.graph.parameters())
    assert sum(p.numel() for p in network.graph.parameters()) == sum(p.numel() for p in case.build().parameters())


def test_clone_is_independent_and_meta_runs() -> None:
    network = lift.from_module(seeded(ShuffleBlock()), (3, 8, 8))
    images = torch.randn(2, 3, 8, 8)
    expected = network(images)
    clone = network.clone()
    with torch.no_grad():
        for parameter in clone.graph.parameters():
            parameter.zero_()
    assert torch.equal(network(images), expected)
    assert network.to_meta()(torch.empty(5, 3, 8, 8, device="meta")).shape == (5, 4)


def test_shuffles_splits_and_scales_have_no_baked_sizes() -> None:
    network = lift.from_module(seeded(ShuffleBlock()), (3, 8, 8))
    kinds = [type(m) for _, m in network.module_calls()]
    assert kinds.count(ChannelSlice) == 4
    assert kinds.count(ChannelPermutation) == 1
    assert kinds.count(ChannelScale) == 1
    assert kinds.count(ChannelNorm) == 1


class _AuxiliaryHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.aux_head = nn.Linear(4, 4)
        self.stochastic_depth = torchvision.ops.StochasticDepth(0.1, "row")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stochastic_depth(self.body(x)).mean((2, 3))
        return x + self.aux_head(x) if self.training else x


def test_what_export_erased_is_listed() -> None:
    erased = lift.from_module(seeded(_AuxiliaryHead()), (3, 8, 8)).erased
    assert any("aux_head" in note for note in erased)
    assert any("stochastic depth" in note for note in erased)


class _TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class _TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.relu(), x.mean((2, 3))


class _MixesImages(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0, keepdim=True)).mean((2, 3))


class _MixesImagesALittle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 0.05 * (x.mean(0, keepdim=True) - x)).mean((2, 3))


class _Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y.relu(), lambda y: y.neg(), (x,)).mean((2, 3))


class _PicksPixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.arange(7, -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(2, self.rows).mean((2, 3))


def test_a_size_that_is_written_into_an_index_is_not_free() -> None:
    network = from_module(_PicksPixels().eval(), (3, 8, 8))
    assert not network.size_is_free
    assert "index_select" in network.size_note


class _Asserting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Flatten(), nn.Linear(10, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x))  # type: ignore[no-any-return]


def test_a_module_that_does_not_take_the_images_says_which_layer() -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"module 'head.1' \(Linear\): RuntimeError: mat1"):
        from_module(_Asserting(), (3, 8, 8))


class _FixedBatch(nn.Module):
    """`torch.kron` is exported with the batch as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.kron(self.weight[None, :], x.mean((2, 3)))


def test_a_batch_that_exporting_fixes_is_freed() -> None:
    module, images = _FixedBatch().eval(), torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(from_module(module, (3, 8, 8))(images), module(images))


class _Volumes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 4, (2, 3, 3)), nn.BatchNorm3d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.unflatten(1, (3, 2)))).mean((2, 3, 4))  # type: ignore[no-any-return]


def test_norms_of_three_axes_and_instance_norms_with_statistics_are_lifted() -> None:
    instance = nn.Sequential(nn.Conv2d(6, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.Flatten())
    nn.init.normal_(instance[1].running_mean)
    for module in (_Volumes().eval(), instance.eval()):
        images = torch.randn(5, 6, 8, 8)
        torch.testing.assert_close(from_module(module, (6, 8, 8))(images), module(images), rtol=1e-4, atol=1e-5)
    program = torch.export.export(instance.train(), (torch.randn(2, 6, 8, 8),), strict=False)
    with pytest.raises(UnsupportedNetworkError, match=r"instance_norm.*module '1'.*evaluation mode"):
        from_exported_program(program)


@dataclass(frozen=True)
class Refusal:
    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    said: str


IMAGE = torch.zeros(2, 3, 8, 8)
REFUSALS = [
    Refusal("two_inputs", _TwoInputs(), (IMAGE, IMAGE), "2 inputs"),
    Refusal("two_outputs", _TwoOutputs(), (IMAGE,), "2 outputs"),
    Refusal("integer_input", nn.Flatten(), (IMAGE.long(),), "float32"),
    Refusal("rank_3", nn.Flatten(), (IMAGE[0],), "rank 3"),
    Refusal("half", nn.Conv2d(3, 4, 3).double(), (IMAGE.double(),), "float"),
    Refusal("mixes_images", _MixesImages(), (IMAGE,), "mixes images"),
    Refusal("mixes_images_a_little", _MixesImagesALittle(), (IMAGE,), "mixes images"),
    Refusal("control_flow", _Branching(), (IMAGE,), "control flow"),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda c: c.name)
def test_what_cannot_be_lifted_is_refused_with_the_reason(case: Refusal) -> None:
    program = torch.export.export(case.module.eval(), case.inputs, strict=False)
    start = time.monotonic()
    with pytest.raises(UnsupportedNetworkError, match=case.said):
        lift.from_exported_program(program)
    assert time.monotonic() - start < 10


def test_a_network_that_is_no_classifier_is_marked() -> None:
    network = lift.from_module(seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), (3, 8, 8))
    assert not network.is_classifier


def test_networks_travel_between_processes() -> None:
    network = lift.from_module(seeded(ShuffleBlock()), (3, 8, 8))
    images = torch.randn(2, 3, 8, 8)
    back = pickle.loads(pickle.dumps(network))
    assert torch.equal(back(images), network(images))
