"""Training on another device. Without a GPU, torch's fake tensors stand in for one: their devices are checked at every operation,
forward and in the loss; torch's own backward is left out, since it asks the driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from techniques import lift
from techniques.channels.norms import PaddedNorm
from techniques.context import Batch, TechniqueContext
from techniques.distillation.soft_targets import DistillationConfig
from techniques.effort import TrainingEffort
from techniques.head import training_logits
from techniques.network import Network
from techniques.training import loop
from techniques.training.device import placed_on
from tests.techniques.digits import accuracy, context, digits, distilled, same_state, state, untrained, with_teacher
from tests.techniques.small_networks import BakedView, ShuffleBlock


class Images:
    """Two batches an epoch, made on the CPU as the service's are."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        self.shape, self.classes = (8, channels, side, side), classes

    def __len__(self) -> int:
        return 16

    def batches(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        for _ in range(2):
            yield Batch(torch.rand(self.shape), torch.zeros(8, dtype=torch.long), torch.zeros(8, self.classes))


@pytest.mark.parametrize(
    ("module", "shape", "classes"), [(BakedView(), (1, 14, 14), 5), (ShuffleBlock(), (3, 8, 8), 4)], ids=["view", "shuffle"]
)
@pytest.mark.filterwarnings("ignore")
def test_every_tensor_of_a_step_is_on_the_device(
    module: nn.Module, shape: tuple[int, int, int], classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []

    @contextmanager
    def pretended(device: str, network: Network) -> Iterator[None]:
        with FakeTensorMode(allow_non_fake_inputs=True):
            network.graph.to(device)
            yield

    def item(tensor: torch.Tensor) -> float:
        devices.append(tensor.device.type)
        return 0.5

    network, images = lift.from_module(module.eval(), shape), Images(shape[0], shape[1], classes)
    monkeypatch.setattr(loop, "placed_on", pretended)
    monkeypatch.setattr(torch.Tensor, "item", item)
    monkeypatch.setattr(torch.Tensor, "backward", lambda tensor: None)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        trained = distilled(network, images, TrainingEffort((0, 2, 3), 8), DistillationConfig(), TechniqueContext(device="cuda"))
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    assert devices.count("cuda") == 5  # a loss for each step
    assert {p.device.type for p in trained.graph.parameters()} == {"cuda"}
    assert {p.device.type for p in network.graph.parameters()} == {"cpu"}


def test_a_network_comes_back_whatever_happened_and_settings_with_it() -> None:
    network = lift.from_module(BakedView().eval(), (1, 14, 14)).to_meta()

    def fail() -> None:
        with placed_on("meta", network):
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.backends.cudnn.benchmark
            raise KeyError("stage")

    with pytest.raises((KeyError, NotImplementedError)):  # values that are nowhere cannot come back
        fail()
    assert not torch.are_deterministic_algorithms_enabled()


def _trained(network: Network, device: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    context = TechniqueContext(device=device)
    fitted = distilled(network, Images(1, 14, 5), TrainingEffort((0, 3), 8), DistillationConfig(), context)
    return dict(fitted.graph.state_dict())


def test_the_same_training_on_a_device_that_is_the_cpu_is_the_same() -> None:
    torch.manual_seed(0)
    network = lift.from_module(BakedView().eval(), (1, 14, 14))
    here, there = _trained(network, "cpu"), _trained(network, "cpu:0")
    assert all(torch.equal(value, there[name]) for name, value in here.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_repeats_and_is_near_that_on_the_cpu() -> None:
    torch.manual_seed(0)
    network = lift.from_module(BakedView().eval(), (1, 14, 14))
    first, second, cpu = _trained(network, "cuda"), _trained(network, "cuda"), _trained(network, "cpu")
    assert all(value.device.type == "cpu" for value in first.values())
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(torch.allclose(value, cpu[name], atol=1e-3) for name, value in first.items() if "drop" not in name)


def test_in_bfloat16_it_learns_as_well_and_is_repeatable(tmp_path: Path) -> None:
    rounded, effort = context(training_dtype="bfloat16"), TrainingEffort((60,), 64)
    data, config = with_teacher(digits()[0]), DistillationConfig(learning_rate=0.01)
    plain, first, again = (
        distilled(untrained(), data, effort, config, one, tmp_path / path)
        for one, path in ((context(), "one"), (rounded, "one"), (rounded, "another"))
    )
    assert same_state(state(first), state(again))
    assert not same_state(state(first), state(plain)), "the checkpoint of another type was taken over"
    assert all(value.dtype == torch.float32 for value in first.graph.parameters())
    assert accuracy(first) > accuracy(plain) - 0.03 > 0.7


def test_a_saturated_sigmoid_gives_finite_logits_in_bfloat16() -> None:
    """Joined heads are read back by the inverse of their sigmoid, for which bfloat16 has not enough digits."""
    module = JoinedHeads()
    network = lift.from_module(module.eval(), (1, 8, 8))
    images = torch.full((4, 1, 8, 8), 30.0)
    for dtype in ("float32", "bfloat16"):
        logits = training_logits(network, "labels", dtype)(images)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()


class JoinedHeads(nn.Module):
    """Two labels, each by a head and a sigmoid of its own, both sure of themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(64, 1) for _ in range(2))
        for head in self.heads:
            nn.init.constant_(head.weight, 0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.sigmoid(head(x.flatten(1))) for head in self.heads], 1)


def test_a_pruned_group_norm_keeps_its_digits_in_bfloat16() -> None:
    norm = PaddedNorm(None, None, 1e-5, 1, 4, groups=2)
    x = 100 + torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(norm(x.bfloat16()), norm(x.bfloat16().float()), atol=1e-5)
