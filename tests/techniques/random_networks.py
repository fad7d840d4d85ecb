"""Random networks from the pieces that networks of this field are made of, one per seed; shared by tests and benchmarks."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = 8
INPUT_SHAPE = (3, SIZE, SIZE)
Step = Callable[[Tensor], Tensor]


class RandomNetwork(nn.Module):
    """A stem, a few random pieces, a random head; ``pieces`` names them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.seed, self.draw = seed, random.Random(seed)
        self.layers = nn.ModuleList()
        self.weights = nn.ParameterList()
        self.pieces: list[str] = []
        self.channels, self.size = 3, SIZE
        self.steps: list[Step] = [self._block(self.draw.choice((8, 12, 16)))]
        for _ in range(self.draw.randint(2, 5)):
            name = self.draw.choice(sorted(_PIECES))
            self.pieces.append(name)
            self.steps.append(_PIECES[name](self))
        head = self.draw.choice(sorted(_HEADS))
        self.pieces.append(head)
        self.steps.append(_HEADS[head](self))
        self.requires_grad_(True)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x

    def add(self, module: nn.Module) -> nn.Module:
        self.layers.append(module)
        return module

    def weight(self, *shape: int) -> nn.Parameter:
        parameter = nn.Parameter(torch.randn(*shape) * 0.5)
        self.weights.append(parameter)
        return parameter

    def conv(self, inputs: int, outputs: int, kernel: int = 3, **more: int) -> nn.Module:
        return self.add(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=self.draw.random() < 0.6, **more))

    def activation(self) -> Step:
        return self.draw.choice((torch.relu, functional.silu, functional.hardswish, functional.gelu, torch.tanh))

    def norm(self, channels: int) -> Step:
        kind = self.draw.choice((*["batch"] * 4, *["none"] * 2, "group", "instance", "layer"))
        if kind == "batch":
            return self.add(nn.BatchNorm2d(channels))
        if kind == "group":
            return self.add(nn.GroupNorm(self.draw.choice([g for g in (1, 2, 4) if channels % g == 0]), channels))
        if kind == "instance":
            return self.add(nn.GroupNorm(channels, channels))
        if kind == "layer":
            norm = self.add(nn.LayerNorm(channels))
            return lambda x: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return lambda x: x

    def _block(self, outputs: int, kernel: int = 3, groups: int = 1) -> Step:
        conv = self.conv(self.channels, outputs, kernel, groups=groups)
        norm, activation = self.norm(outputs), self.activation()
        self.channels = outputs
        return lambda x: activation(norm(conv(x)))

    def branch(self, outputs: int) -> Step:
        before = self.channels
        step = self._block(outputs)
        self.channels = before
        return step


def _plain(n: RandomNetwork) -> Step:
    return n._block(n.draw.choice((8, 12, 16)), n.draw.choice((1, 3)))


def _grouped(n: RandomNetwork) -> Step:
    groups = n.draw.choice([g for g in (2, 4) if n.channels % g == 0] or [1])
    return n._block(n.channels, 3, groups)


def _depthwise(n: RandomNetwork) -> Step:
    return n._block(n.channels * n.draw.choice((1, 2)), 3, n.channels)


def _residual(n: RandomNetwork) -> Step:
    step = n.branch(n.channels)
    return lambda x: x + step(x)


def _padded_shortcut(n: RandomNetwork) -> Step:
    step = n.branch(n.channels + 4)
    n.channels += 4
    return lambda x: step(x) + functional.pad(x, (0, 0, 0, 0, 2, 2))


def _concat(n: RandomNetwork) -> Step:
    step = n.branch(8)
    n.channels += 8
    return lambda x: torch.cat((x, step(x)), 1)


def _gated(n: RandomNetwork) -> Step:
    conv = n.conv(n.channels, 16)
    n.channels = 8

    def step(x: Tensor) -> Tensor:
        left, right = conv(x).chunk(2, 1)
        return left * torch.sigmoid(right)

    return step


def _split(n: RandomNetwork) -> Step:
    quarter = n.channels // 4
    first, second = n.conv(quarter, quarter), n.conv(quarter, quarter)

    def step(x: Tensor) -> Tensor:
        parts = x.split([quarter, quarter, quarter, x.shape[1] - 3 * quarter], 1)
        one = torch.relu(first(parts[0]))
        two = torch.relu(second(one + parts[1]))
        return torch.cat((one, two, parts[2], parts[3]), 1)

    return step


def _shuffle(n: RandomNetwork) -> Step:
    def step(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)

    return step


def _last_axis(n: RandomNetwork) -> Step:
    up, down = n.add(nn.Linear(n.channels, 2 * n.channels)), n.add(nn.Linear(2 * n.channels, n.channels))
    return lambda x: x + down(functional.gelu(up(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


def _squeeze_excite(n: RandomNetwork) -> Step:
    down, up = n.add(nn.Conv2d(n.channels, 4, 1)), n.add(nn.Conv2d(4, n.channels, 1))
    return lambda x: x * torch.sigmoid(up(torch.relu(down(x.mean((2, 3), keepdim=True)))))


def _channel_attention(n: RandomNetwork) -> Step:
    conv = n.add(nn.Conv1d(1, 1, 3, padding=1, bias=False))
    return lambda x: x * torch.sigmoid(conv(x.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1))


def _spatial_attention(n: RandomNetwork) -> Step:
    conv = n.conv(2, 1)
    return lambda x: x * torch.sigmoid(conv(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)))


def _where(n: RandomNetwork) -> Step:
    return lambda x: torch.where(x > 0, x, 0.1 * x)


def _transposed(n: RandomNetwork) -> Step:
    conv = n.add(nn.ConvTranspose2d(n.channels, 8, 2, stride=2))
    n.channels = 8
    return lambda x: functional.avg_pool2d(torch.relu(conv(x)), 2)


def _moved(n: RandomNetwork) -> Step:
    kind = n.draw.choice(("flip", "roll", "strided"))
    if kind == "flip":
        return lambda x: x.flip(1)
    if kind == "roll":
        return lambda x: x.roll(3, 1)
    return lambda x: torch.cat((x[:, ::2], x[:, 1::2]), 1)


def _maxout(n: RandomNetwork) -> Step:
    conv = n.conv(n.channels, 16)
    n.channels = 8
    return lambda x: conv(x).reshape(x.shape[0], 2, 8, x.shape[2], x.shape[3]).amax(1)


def _learned(n: RandomNetwork) -> Step:
    shift, scale = n.weight(n.channels), n.weight(1, n.channels, 1, 1)
    return lambda x: torch.relu(x * scale + shift[None, :, None, None])


def _several(n: RandomNetwork) -> Step:
    conv = n.conv(n.channels, n.channels)
    return lambda x: torch.relu(conv(torch.relu(conv(x))))


_PIECES: dict[str, Callable[[RandomNetwork], Step]] = {
    "plain": _plain, "grouped": _grouped, "depthwise": _depthwise, "residual": _residual, "padded_shortcut": _padded_shortcut,
    "concat": _concat, "gated": _gated, "split": _split, "shuffle": _shuffle, "last_axis": _last_axis,
    "squeeze_excite": _squeeze_excite, "channel_attention": _channel_attention, "spatial_attention": _spatial_attention,
    "where": _where, "transposed": _transposed, "moved": _moved, "maxout": _maxout, "learned": _learned, "called_twice": _several,
}  # fmt: skip


def _average(n: RandomNetwork) -> Step:
    fc = n.add(nn.Linear(n.channels, 5))
    return lambda x: fc(x.mean((2, 3)))


def _flat(n: RandomNetwork) -> Step:
    fc = n.add(nn.Linear(n.channels * SIZE * SIZE, 5))
    return lambda x: fc(x.flatten(1))


def _last_axis_flat(n: RandomNetwork) -> Step:
    fc = n.add(nn.Linear(n.channels * SIZE * SIZE, 5))
    return lambda x: fc(x.permute(0, 2, 3, 1).flatten(1))


def _tokens(n: RandomNetwork) -> Step:
    fc = n.add(nn.Linear(n.channels * SIZE * SIZE, 5))
    return lambda x: fc(x.flatten(2).transpose(1, 2).reshape(x.shape[0], -1))


def _pyramid(n: RandomNetwork) -> Step:
    fc = n.add(nn.Linear(n.channels * 5, 5))
    return lambda x: fc(torch.cat([functional.adaptive_avg_pool2d(x, k).flatten(1) for k in (1, 2)], 1))


def _gram(n: RandomNetwork) -> Step:
    fc = n.add(nn.Linear(n.channels**2, 5))

    def step(x: Tensor) -> Tensor:
        y = x.flatten(2)
        return fc((y @ y.transpose(1, 2)).flatten(1))

    return step


def _sequence(n: RandomNetwork) -> Step:
    conv, fc = n.add(nn.Conv1d(n.channels, 8, 3, padding=1)), n.add(nn.Linear(8, 5))
    return lambda x: fc(torch.relu(conv(x.flatten(2))).mean(2))


_HEADS: dict[str, Callable[[RandomNetwork], Step]] = {
    "average": _average, "flat": _flat, "last_axis_flat": _last_axis_flat, "tokens": _tokens, "pyramid": _pyramid, "gram": _gram,
    "sequence": _sequence,
}  # fmt: skip
