"""Which networks a calibration measures: random members of the families that searches meet, thin small-image nets foremost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from hw_models.calibration_networks import CalibrationNetwork, NetworkWriter, Value
from hw_models.targets import Precision

MAX_MACS = 80_000_000
RESIZED_SHARE = 0.15
_CLASSES = 10

Family = Callable[[NetworkWriter, np.random.Generator], Value]


def sample_networks(precisions: tuple[Precision, ...], seed: int) -> Iterator[CalibrationNetwork]:
    """Endless and repeatable: families and precisions take turns, all else is drawn; none above 80 M multiply-accumulates."""
    generator = np.random.default_rng(seed)
    index = 0
    while True:
        family = _FAMILIES[(index // len(precisions)) % len(_FAMILIES)]
        precision = precisions[index % len(precisions)]
        network = _draw(family, precision, generator, f"{family.__name__.strip('_')}-{precision}-{index}")
        while network.graph.macs() > MAX_MACS:
            network = _draw(family, precision, generator, network.name)
        yield network
        index += 1


def _draw(family: Family, precision: Precision, generator: np.random.Generator, name: str) -> CalibrationNetwork:
    size = int(generator.choice([14, 28, 28, 28, 32, 32, 48, 56]))
    channels = int(generator.choice([1, 3]))
    resize_to = int(generator.integers(size // 2, size)) if generator.random() < RESIZED_SHARE else None
    writer = NetworkWriter((1, channels, size, size), precision, generator, resize_to)
    return writer.finish(name, family(writer, generator))


def _channels(generator: np.random.Generator, low: int, high: int) -> int:
    """Log-uniform; half of them multiples of 8, a quarter multiples of 4, the rest as drawn (what free pruning leaves)."""
    drawn = round(float(np.exp(generator.uniform(np.log(low), np.log(high)))))
    multiple = int(generator.choice([8, 8, 4, 1]))
    return max(low, -(-drawn // multiple) * multiple)


def _residual(writer: NetworkWriter, generator: np.random.Generator) -> Value:
    """ResNet-8 to ResNet-20 on small images, with pruned inner widths and removed blocks."""
    width = _channels(generator, 4, 48)
    blocks = int(generator.integers(1, 4))
    keep = float(generator.uniform(0.4, 1.0))
    multiple = int(generator.choice([8, 8, 4, 1]))
    x = writer.conv(writer.input, width, 3)
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            outer = min(width * 2**stage, 128)
            inner = max(multiple, round(outer * keep * float(generator.uniform(0.7, 1.0)) / multiple) * multiple)
            y = writer.conv(x, inner, 3, stride)
            y = writer.conv(y, outer, 3, activation=None)
            if stride != 1 or x.shape[1] != outer:
                x = writer.conv(x, outer, 1, stride, activation=None)
            x = writer.add(y, x)
    return writer.head(x, _CLASSES)


def _plain(writer: NetworkWriter, generator: np.random.Generator) -> Value:
    """A stack of convolutions of any kernel, wide layers on small maps included."""
    x = writer.conv(writer.input, _channels(generator, 8, 64), int(generator.choice([3, 5])), int(generator.choice([1, 2])))
    for _ in range(int(generator.integers(2, 7))):
        kernel = int(generator.choice([1, 3, 3, 5]))
        stride = 2 if x.shape[2] > 7 and generator.random() < 0.4 else 1
        x = writer.conv(x, _channels(generator, 8, 256), kernel, stride)
    return writer.head(x, _CLASSES)


def _inverted_residual(writer: NetworkWriter, generator: np.random.Generator) -> Value:
    """Pointwise, depthwise, pointwise (MobileNet)."""
    x = writer.conv(writer.input, _channels(generator, 8, 32), 3, int(generator.choice([1, 2])), activation="clip")
    for _ in range(int(generator.integers(2, 6))):
        stride = 2 if x.shape[2] > 7 and generator.random() < 0.4 else 1
        wide = x.shape[1] * int(generator.choice([1, 2, 4, 6])) if x.shape[1] < 64 else x.shape[1] * 2
        out = x.shape[1] if stride == 1 and generator.random() < 0.5 else _channels(generator, 8, 96)
        y = writer.conv(x, wide, 1, activation="clip")
        y = writer.conv(y, wide, int(generator.choice([3, 3, 5])), stride, groups=wide, activation="clip")
        y = writer.conv(y, out, 1, activation=None)
        x = writer.add(y, x, relu=False) if y.shape == x.shape else y
    return writer.head(x, _CLASSES)


def _low_rank(writer: NetworkWriter, generator: np.random.Generator) -> Value:
    """Tucker-2: pointwise to a small rank, a thin k x k, pointwise back."""
    x = writer.conv(writer.input, _channels(generator, 8, 48), 3)
    for _ in range(int(generator.integers(2, 6))):
        stride = 2 if x.shape[2] > 7 and generator.random() < 0.3 else 1
        out = _channels(generator, 8, 128)
        y = writer.conv(x, max(2, int(x.shape[1] * generator.uniform(0.2, 0.7))), 1, activation=None)
        y = writer.conv(y, max(2, int(out * generator.uniform(0.2, 0.7))), 3, stride, activation=None)
        x = writer.conv(y, out, 1)
    return writer.head(x, _CLASSES)


def _pooled(writer: NetworkWriter, generator: np.random.Generator) -> Value:
    """Convolutions and max pooling, then a wide fully connected head (LeNet, VGG)."""
    x = writer.input
    while x.shape[2] > 7:
        width = _channels(generator, 8, 96)
        for _ in range(int(generator.integers(1, 3))):
            x = writer.conv(x, width, 3)
        x = writer.max_pool(x)
    x = writer.flatten(x)
    for _ in range(int(generator.integers(1, 3))):
        x = writer.linear(x, _channels(generator, 32, 512), activation=True)
    return writer.linear(x, _CLASSES)


def _grouped(writer: NetworkWriter, generator: np.random.Generator) -> Value:
    """Grouped convolutions between pointwise ones (ResNeXt, ShuffleNet)."""
    groups = int(generator.choice([2, 4, 8]))
    x = writer.conv(writer.input, groups * _channels(generator, 4, 16), 3, 2)
    for _ in range(int(generator.integers(2, 5))):
        stride = 2 if x.shape[2] > 7 and generator.random() < 0.3 else 1
        width = groups * _channels(generator, 4, 24)
        y = writer.conv(x, width, 1)
        y = writer.conv(y, width, 3, stride, groups=groups)
        y = writer.conv(y, x.shape[1], 1, activation=None)
        x = writer.add(y, x) if y.shape == x.shape else writer.conv(y, _channels(generator, 8, 64), 1)
        x = x if x.shape[1] % groups == 0 else writer.conv(x, groups * 8, 1)
    return writer.head(x, _CLASSES)


def _branched(writer: NetworkWriter, generator: np.random.Generator) -> Value:
    """Concatenation and channel gates (SqueezeNet's fire, squeeze-and-excite)."""
    x = writer.conv(writer.input, _channels(generator, 8, 48), 3, int(generator.choice([1, 2])))
    for _ in range(int(generator.integers(1, 5))):
        squeezed = writer.conv(x, _channels(generator, 4, 32), 1)
        width = _channels(generator, 8, 64)
        x = writer.concat(writer.conv(squeezed, width, 1), writer.conv(squeezed, width, 3))
        if generator.random() < 0.5:
            gate = writer.conv(writer.global_pool(x), max(4, x.shape[1] // 4), 1)
            x = writer.mul(x, writer.unary(writer.conv(gate, x.shape[1], 1, activation=None), "sigmoid"))
        if x.shape[2] > 7 and generator.random() < 0.5:
            x = writer.max_pool(x)
    return writer.head(x, _CLASSES)


_FAMILIES: tuple[Family, ...] = (
    _residual, _plain, _inverted_residual, _residual, _low_rank, _pooled, _residual, _grouped, _branched,
)  # fmt: skip
