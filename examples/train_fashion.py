"""Train ResNet-20 on Fashion-MNIST images 0-49,999 and save it as safetensors beside a model card.

``python -m examples.train_fashion --out examples/resnet20_fashion.safetensors`` takes about half an hour on two cores.
The last 10,000 training images are left out on purpose: they are the validation and selection splits of a search.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from examples import fashion_mnist
from examples.resnet import ResNet

TRAIN_IMAGES = 50_000


def to_input(images: np.ndarray) -> Tensor:
    """``(n, 28, 28)`` uint8 to the network's input ``(n, 1, 28, 28)``: scaled to [0, 1], then standardised."""
    x = torch.from_numpy(images.copy()).float().unsqueeze(1) / 255
    return (x - fashion_mnist.MEAN) / fashion_mnist.STD


def augment(x: Tensor, generator: torch.Generator, pad: int = 2) -> Tensor:
    """Random horizontal flip per image and a random shift of up to ``pad`` pixels per image."""
    batch, _, height, width = x.shape
    flip = torch.rand(batch, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    padded = functional.pad(x, (pad,) * 4, value=float(x.min()))
    dy, dx = torch.randint(0, 2 * pad + 1, (2, batch), generator=generator)
    rows = dy[:, None] + torch.arange(height)
    columns = dx[:, None] + torch.arange(width)
    return padded[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 1000) -> float:
    """Top-1 accuracy as a fraction, in evaluation mode."""
    model.eval()
    hits = sum(int((model(x[i : i + batch]).argmax(1) == y[i : i + batch]).sum()) for i in range(0, len(x), batch))
    return hits / len(x)


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, seed: int, batch: int = 128, peak_lr: float = 0.2) -> None:
    """SGD with Nesterov momentum under a one-cycle schedule (Smith 2018)."""
    generator = torch.Generator().manual_seed(seed)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=peak_lr, momentum=0.9, nesterov=True)
    steps = len(x) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=epochs * steps, pct_start=0.2)
    for epoch in range(epochs):
        model.train()
        started, total_loss = time.perf_counter(), 0.0
        order = torch.randperm(len(x), generator=generator)
        for step in range(steps):
            index = order[step * batch : (step + 1) * batch]
            loss = functional.cross_entropy(model(augment(x[index], generator)), y[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total_loss += loss.item()
        print(f"epoch {epoch + 1}/{epochs} loss {total_loss / steps:.4f} in {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    """Train, print validation and test accuracy, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("examples/resnet20_fashion.safetensors"))
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    data = fashion_mnist.load()
    model = ResNet(depth=20)
    x, y = to_input(data.train_images), torch.from_numpy(data.train_labels)
    train(model, x[:TRAIN_IMAGES], y[:TRAIN_IMAGES], options.epochs, options.seed)
    print(f"held-out 50,000-59,999: {accuracy(model, x[TRAIN_IMAGES:], y[TRAIN_IMAGES:]):.4f}")
    print(f"test: {accuracy(model, to_input(data.test_images), torch.from_numpy(data.test_labels)):.4f}")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, str(options.out))


if __name__ == "__main__":
    main()
