"""Small networks and data for each kind of output that a network may have, and what a search of them needs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from examples.resnet import ResNet
from hw_models.predictor import Predictor
from hw_models.targets import get_target
from search.dataset_file import DatasetMetadata, DatasetTensors, write
from search.environment import SearchEnvironment
from search.preprocessing import Preprocessing
from search.spec import Budget, Effort, SearchSpec
from techniques.export import to_pt2
from techniques.lift import from_module
from tests.search.memory import FolderBlobs, MemoryStore, SilentTracker

STATED = Preprocessing(8, 8, 1, mean=(0.3,), std=(0.35,))
TRAIN = 1000
_SPLIT = np.repeat(np.arange(4, dtype=np.uint8), (TRAIN, 300, 250, 247))

DIGITS = np.asarray(load_digits().target, np.int64)
ODD = DIGITS % 2
SEVERAL = np.stack([DIGITS % 2, DIGITS % 3 == 0, DIGITS > 4, DIGITS == 7], 1).astype(np.uint8)


class Ended(nn.Module):
    """A network with something behind it."""

    def __init__(self, body: nn.Module, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.end = body, end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.body(x))


class Dense(nn.Module):
    """A map of as many pixels as the image has."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, width in ((1, 16), (16, 16), (16, 16)):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(16, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


@functools.cache
def _pixels() -> npt.NDArray[np.uint8]:
    return np.asarray((load_digits().images * 255 / 16).round(), np.uint8)[..., None]


@functools.cache
def images() -> Tensor:
    """All images as networks see them ``(1797, 1, 8, 8)``."""
    scale, offset = STATED.scale_and_offset()
    return torch.from_numpy(_pixels()).permute(0, 3, 1, 2).float() * float(scale[0]) + float(offset[0])


def _trained(network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor, steps: int = 70) -> nn.Module:
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for step in range(steps):
        index = torch.randint(0, TRAIN, (64,), generator=torch.Generator().manual_seed(step))
        value = loss(network(images()[index]), targets[index])
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network.eval()


def _resnet(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return ResNet(8, (16, 16, 32), num_classes=outputs)


@functools.cache
def classifier() -> nn.Module:
    """Ten logits."""
    return _trained(_resnet(10), functional.cross_entropy, torch.from_numpy(DIGITS))


@functools.cache
def odd() -> nn.Module:
    """One logit ``(n, 1)``: odd or even."""
    targets = torch.from_numpy(ODD).float()[:, None]
    return _trained(_resnet(1), functional.binary_cross_entropy_with_logits, targets)


@functools.cache
def tagger() -> nn.Module:
    """Four logits of their own."""
    return _trained(_resnet(4), functional.binary_cross_entropy_with_logits, torch.from_numpy(SEVERAL).float())


@functools.cache
def dense() -> nn.Module:
    """Two maps ``(n, 2, 8, 8)``: the image blurred and moved."""
    torch.manual_seed(0)
    targets = torch.cat([functional.avg_pool2d(images(), 3, 1, 1), images().roll((1, 1), (2, 3))], 1)
    return _trained(Dense(), functional.mse_loss, targets)


def environment(
    folder: Path, network: nn.Module, labels: npt.NDArray[Any] | None, **spec: Any
) -> tuple[SearchSpec, SearchEnvironment]:
    """A request and what `run_search` needs for it; unless told otherwise any latency will do."""
    blobs = FolderBlobs(folder / "blobs")
    to_pt2(from_module(network, (1, 8, 8)), folder / "model.pt2")
    columns = 0 if labels is None else labels.shape[1] if labels.ndim > 1 else int(labels.max()) + 1
    metadata = DatasetMetadata(STATED, tuple(f"c{i}" for i in range(columns)), augment="none")
    write(folder / "data", DatasetTensors(_pixels(), _SPLIT, labels), metadata)
    budget = spec.pop("budget", Budget(max_accuracy_drop_points=20.0))
    effort = spec.pop("effort", Effort(2, 120.0, 1, 2.0))
    model, data = blobs.put_file(folder / "model.pt2"), blobs.put_file(folder / "data")
    target = spec.pop("target", None) or get_target("cpu-ort-1t")
    asked = SearchSpec(model, data, target.name, budget, effort, **spec)
    predictor = Predictor.uncalibrated(target).to_json()
    name = "projects/default/searches/heads"
    return asked, SearchEnvironment(name, MemoryStore(), blobs, SilentTracker(), predictor, folder / "work", measure_limit_s=4.0)
