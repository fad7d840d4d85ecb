"""Which networks calibration measures: blocks that compressed CNNs are made of, at random and often odd sizes.

Their whole costs less than a real network, so that many fit into a short calibration; what counts is that every kind of kernel
is seen at many shapes, thin and wide, early (large maps) and late (many channels at small maps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from paretopress.runtime.kit.networks import KitNetwork, NetworkWriter, Value

MAX_MACS = 600_000_000
MAX_VALUES = 50_000_000
RESIZED_SHARE = 0.1
_SIZES = (14, 20, 28, 28, 32, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224)
_LARGE_SIZES = (96, 112, 128, 160, 192, 224, 224)
_SMALLEST, _SMALL, _MIDDLE, _LARGE = 3, 16, 40, 72
_CLASSES = (10, 10, 100, 1000)

Family = Callable[[NetworkWriter, "_Draw"], Value]


def sample_networks(precisions: Sequence[str], seed: int, start: int = 0) -> Iterator[KitNetwork]:
    """Endless and repeatable: families and precisions take turns, all else is drawn; network ``i`` is the same from any start."""
    index = start
    while True:
        yield sample_network(precisions[index % len(precisions)], seed, index, index // len(precisions))
        index += 1


def sample_network(precision: str, seed: int, index: int, family_index: int) -> KitNetwork:
    """One network; none above 600 M multiply-accumulates or 50 M values in all tensors together."""
    draw = _Draw(np.random.default_rng([seed, index]))
    family = _FAMILIES[family_index % len(_FAMILIES)]
    while True:
        size = int(draw.one_of(_LARGE_SIZES if family is _early else _SIZES))
        resize_to = int(draw.between(size // 2, size)) if draw.chance() < RESIZED_SHARE else None
        draw.choose_style()
        writer = NetworkWriter((1, int(draw.one_of([1, 3, 3])), size, size), precision, draw.generator, resize_to)
        output = writer.head(family(writer, draw), int(draw.one_of(_CLASSES)))
        if writer.macs <= MAX_MACS and writer.values <= MAX_VALUES:
            return writer.finish(f"{family.__name__.strip('_')}-{precision}-{index}", output)


class _Draw:
    """Random choices of one network. Its channel counts have a style: multiples of 8, free (what pruning leaves), or mixed."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self._multiples: tuple[int, ...] = (8,)
        self._depth = 1

    def choose_style(self) -> None:
        """Draw the style of the next network's channel counts, and whether it is a deep one."""
        self._multiples = _STYLES[int(self.generator.integers(len(_STYLES)))]
        self._depth = int(self.one_of([1, 1, 2, 3]))

    def channels(self, low: int, high: int) -> int:
        """Log-uniform, then up to the next multiple."""
        drawn = round(float(np.exp(self.generator.uniform(np.log(low), np.log(high)))))
        multiple = int(self.generator.choice(self._multiples))
        return max(low, -(-drawn // multiple) * multiple)

    def one_of(self, values: Sequence[Any]) -> Any:
        """Each equally likely."""
        return values[int(self.generator.integers(len(values)))]

    def chance(self) -> float:
        """Uniform in [0, 1)."""
        return float(self.generator.random())

    def between(self, low: float, high: float) -> float:
        """Uniform."""
        return float(self.generator.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self.generator.integers(low, high + 1))

    def layers(self, low: int, high: int) -> int:
        """How often a block is repeated: as `count`, more in a deep network."""
        return self._depth * self.count(low, high)

    def activation(self) -> str:
        """What follows a convolution."""
        return str(self.one_of(["relu", "relu", "clip", "hard_swish", "silu"]))

    def stride(self, x: Value, chance: float = 0.35) -> int:
        """1 or 2; large maps are halved more often, the smallest never."""
        if x.shape[2] > _MIDDLE:
            chance = 0.6
        return 2 if x.shape[2] > _SMALLEST and self.chance() < chance else 1


_STYLES = ((8,), (8,), (1,), (1,), (8, 4, 1))


def _stem(writer: NetworkWriter, draw: _Draw, low: int = 4, high: int = 64) -> Value:
    """The first convolution; larger images are halved once or twice."""
    x = writer.input
    if x.shape[2] < _LARGE:
        return writer.conv(x, draw.channels(low, high), int(draw.one_of([3, 3, 5])), int(draw.one_of([1, 1, 2])))
    kernel = int(draw.one_of([3, 3, 7]))
    x = writer.conv(x, draw.channels(max(low, 8), high), kernel, 2, activation=draw.activation())
    return writer.pool(x, "max_pool", 3, 2) if draw.chance() < 0.4 else x


def _residual(writer: NetworkWriter, draw: _Draw) -> Value:
    """Basic blocks (ResNet on small images), with pruned inner widths and removed blocks."""
    x = _stem(writer, draw, 4, 48)
    width = x.shape[1]
    blocks = draw.layers(1, 3)
    keep = float(draw.between(0.4, 1.0))
    multiple = int(draw.one_of([8, 8, 1, 1]))
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            outer = min(width * 2**stage, 256)
            inner = max(multiple, round(outer * keep * float(draw.between(0.7, 1.0)) / multiple) * multiple)
            y = writer.conv(x, inner, 3, stride)
            y = writer.conv(y, outer, 3, activation=None)
            if stride != 1 or x.shape[1] != outer:
                x = writer.conv(x, outer, 1, stride, activation=None)
            x = writer.add(y, x)
    return x


def _bottleneck(writer: NetworkWriter, draw: _Draw) -> Value:
    """Pointwise, k x k (grouped or not), pointwise, with a residual (ResNet-50, ResNeXt, RegNet)."""
    x = _stem(writer, draw, 8, 64)
    groups = int(draw.one_of([1, 1, 2, 4, 8, 16, 25, 32]))
    for _ in range(draw.layers(2, 6)):
        stride = draw.stride(x, 0.5)
        width = groups * draw.channels(2, max(24, 192 // groups))
        out = x.shape[1] if stride == 1 and draw.chance() < 0.5 else draw.channels(16, 384)
        y = writer.conv(x, width, 1)
        y = writer.conv(y, width, 3, stride, groups=groups)
        if draw.chance() < 0.3:
            y = _gated(writer, y, draw)
        y = writer.conv(y, out, 1, activation=None)
        shortcut = x if y.shape == x.shape else writer.conv(x, out, 1, stride, activation=None)
        x = writer.add(y, shortcut)
    return x


def _plain(writer: NetworkWriter, draw: _Draw) -> Value:
    """A stack of convolutions of any kernel, wide layers on small maps included."""
    x = _stem(writer, draw, 8, 64)
    for _ in range(draw.layers(2, 6)):
        kernel: int | tuple[int, int] = int(draw.one_of([1, 3, 3, 5]))
        if draw.chance() < 0.2:
            long = int(draw.one_of([3, 5, 7]))
            kernel = (1, long) if draw.chance() < 0.5 else (long, 1)
        stride = draw.stride(x) if isinstance(kernel, int) else 1
        x = writer.conv(x, draw.channels(8, 256), kernel, stride)
    return x


def _inverted_residual(writer: NetworkWriter, draw: _Draw) -> Value:
    """Pointwise, depthwise, perhaps a channel gate, pointwise (MobileNet, MnasNet, EfficientNet)."""
    activation = draw.activation()
    x = _stem(writer, draw, 8, 32)
    gate = draw.chance() < 0.4
    for _ in range(draw.layers(2, 6)):
        stride = draw.stride(x)
        wide = x.shape[1] * int(draw.one_of([1, 2, 3, 4, 6])) if x.shape[1] < 160 else x.shape[1] * 2
        out = x.shape[1] if stride == 1 and draw.chance() < 0.5 else draw.channels(6, 192)
        y = writer.conv(x, wide, 1, activation=activation)
        y = writer.conv(y, wide, int(draw.one_of([3, 3, 5])), stride, groups=wide, activation=activation)
        if gate:
            y = _gated(writer, y, draw)
        y = writer.conv(y, out, 1, activation=None)
        x = writer.add(y, x, relu=False) if y.shape == x.shape else y
    return x


def _early(writer: NetworkWriter, draw: _Draw) -> Value:
    """Large maps, thin and not so thin: how every large network begins."""
    x = writer.conv(writer.input, draw.channels(6, 48), int(draw.one_of([3, 3, 7])), 2, activation=draw.activation())
    for _ in range(draw.layers(2, 5)):
        kind = draw.chance()
        if kind < 0.45:
            x = writer.conv(x, draw.channels(6, 144), 1, activation=draw.activation())
        elif kind < 0.75:
            x = writer.conv(x, x.shape[1], int(draw.one_of([3, 3, 5])), draw.stride(x, 0.3), groups=x.shape[1])
        elif kind < 0.9:
            x = writer.conv(x, draw.channels(6, 64), 3, draw.stride(x, 0.5))
        else:
            groups = int(draw.one_of([2, 4, 8]))
            width = groups * draw.channels(4, 24)
            x = writer.conv(writer.conv(x, width, 1), width, 3, draw.stride(x, 0.5), groups=groups)
    return x


def _late(writer: NetworkWriter, draw: _Draw) -> Value:
    """Many channels at small maps: how every large network ends."""
    x = _stem(writer, draw, 16, 64)
    while x.shape[2] > _SMALL:
        x = writer.conv(x, draw.channels(16, 96), 3, 2)
    for _ in range(draw.layers(2, 6)):
        kind = draw.chance()
        if kind < 0.5:
            x = writer.conv(x, draw.channels(96, 1536), 1, activation=draw.activation())
        elif kind < 0.75:
            x = writer.conv(x, x.shape[1], int(draw.one_of([3, 5])), draw.stride(x), groups=x.shape[1])
        else:
            x = writer.conv(x, draw.channels(64, 512), 3, draw.stride(x))
        if draw.chance() < 0.25:
            x = _gated(writer, x, draw)
    return x


def _heavy(writer: NetworkWriter, draw: _Draw) -> Value:
    """More weights than caches hold, at small maps: each run streams them from memory, as large networks do."""
    x = _stem(writer, draw, 32, 64)
    largest = draw.count(2, 8)
    while x.shape[2] > largest:
        x = writer.conv(x, draw.channels(48, 128), 3, 2)
    goal = 1e6 * float(np.exp(draw.between(np.log(1.5), np.log(18 if writer.precision == "fp32" else 45))))
    while writer.weights < goal:
        if draw.chance() < 0.5:
            x = writer.conv(x, draw.channels(192, 640), 3, draw.stride(x))
        else:
            x = writer.conv(x, draw.channels(384, 2048), 1)
    return x


def _factored(writer: NetworkWriter, draw: _Draw) -> Value:
    """Tucker-2: pointwise to a small rank, a thin k x k, pointwise back; or two one-dimensional convolutions."""
    x = _stem(writer, draw, 8, 48)
    for _ in range(draw.layers(2, 5)):
        stride = draw.stride(x)
        out = draw.channels(8, 192)
        if draw.chance() < 0.25:
            rank = max(2, int(out * draw.between(0.2, 0.8)))
            x = writer.conv(writer.conv(x, rank, (3, 1), activation=None), out, (1, 3))
            continue
        y = writer.conv(x, max(2, int(x.shape[1] * draw.between(0.2, 0.7))), 1, activation=None)
        y = writer.conv(y, max(2, int(out * draw.between(0.2, 0.7))), 3, stride, activation=None)
        x = writer.conv(y, out, 1)
    return x


def _pooled(writer: NetworkWriter, draw: _Draw) -> Value:
    """Convolutions and max pooling, then a wide fully connected head (LeNet, VGG)."""
    x = _stem(writer, draw, 8, 32)
    while x.shape[2] > 7:
        width = draw.channels(8, 128)
        for _ in range(draw.layers(1, 2)):
            x = writer.conv(x, width, 3)
        x = writer.pool(x)
    x = writer.flatten(x)
    for _ in range(draw.layers(1, 2)):
        x = writer.linear(x, draw.channels(32, 1024), activation=True)
    return Value(x.name, (*x.shape, 1, 1))


def _concatenated(writer: NetworkWriter, draw: _Draw) -> Value:
    """Branches that are concatenated: fire, inception and dense blocks."""
    x = _stem(writer, draw, 8, 64)
    dense = draw.chance() < 0.4
    growth = draw.channels(8, 48)
    for _ in range(draw.layers(2, 6)):
        if dense:
            y = writer.conv(writer.conv(x, 4 * growth, 1), growth, 3)
            x = writer.concat(x, y)
        else:
            squeezed = writer.conv(x, draw.channels(4, 64), 1)
            parts = [writer.conv(squeezed, draw.channels(8, 96), 1), writer.conv(squeezed, draw.channels(8, 96), 3)]
            if draw.chance() < 0.5:
                pooled = writer.pool(x, str(draw.one_of(["max_pool", "avg_pool"])), 3, 1)
                parts.append(writer.conv(pooled, draw.channels(8, 64), 1))
            x = writer.concat(*parts)
        if x.shape[2] > _SMALLEST and (x.shape[2] > _MIDDLE or draw.chance() < 0.4):
            x = writer.pool(x, str(draw.one_of(["max_pool", "max_pool", "avg_pool"])), int(draw.one_of([2, 3])), 2)
    return x


def _shuffled(writer: NetworkWriter, draw: _Draw) -> Value:
    """Half of the channels through pointwise, depthwise, pointwise; then a shuffle (ShuffleNet)."""
    x = _stem(writer, draw, 8, 32)
    for _ in range(draw.layers(2, 5)):
        if x.shape[1] % 2 or draw.stride(x) == 2:
            width = 2 * draw.channels(8, 96)
            left = writer.conv(writer.conv(x, x.shape[1], 3, 2, groups=x.shape[1], activation=None), width // 2, 1)
            right = writer.conv(x, width // 2, 1)
            right = writer.conv(right, width // 2, 3, 2, groups=width // 2, activation=None)
        else:
            left, half = writer.split(x)
            right = writer.conv(half, half.shape[1], 1)
            right = writer.conv(right, half.shape[1], 3, groups=half.shape[1], activation=None)
        right = writer.conv(right, left.shape[1], 1)
        x = writer.shuffle(writer.concat(left, right), 2)
    return x


def _normed(writer: NetworkWriter, draw: _Draw) -> Value:
    """Large depthwise kernels, layer norms and GELU (ConvNeXt)."""
    x = writer.conv(writer.input, draw.channels(16, 64), 3, 2, activation=None)
    for _ in range(draw.layers(1, 4)):
        y = writer.channel_norm(writer.conv(x, x.shape[1], 7, groups=x.shape[1], activation=None))
        y = writer.conv(y, x.shape[1] * int(draw.one_of([2, 4])), 1, activation="gelu")
        x = writer.add(writer.conv(y, x.shape[1], 1, activation=None), x, relu=False)
        if draw.stride(x) == 2:
            x = writer.conv(x, draw.channels(16, 192), 3, 2, activation=None)
    return x


def _gated(writer: NetworkWriter, x: Value, draw: _Draw) -> Value:
    """Squeeze-and-excitation."""
    inner = writer.conv(writer.global_pool(x), max(4, x.shape[1] // int(draw.one_of([2, 4, 8]))), 1)
    gate = writer.conv(inner, x.shape[1], 1, activation=None)
    return writer.mul(x, writer.unary(gate, str(draw.one_of(["sigmoid", "hard_sigmoid"]))))


_FAMILIES: tuple[Family, ...] = (
    _residual, _inverted_residual, _early, _bottleneck, _plain, _late, _concatenated, _factored, _inverted_residual, _shuffled,
    _early, _bottleneck, _pooled, _heavy, _residual, _late, _concatenated, _normed, _heavy,
)  # fmt: skip
