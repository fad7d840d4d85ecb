"""Networks whose latency is the truth for the hardware models: known families and variants of ResNet-20, as exported files.

Each is written once to ``build/hw_models/networks``: ``<name>.onnx`` and ``<name>.json``, its operator graph.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from torch import nn

from benchmarks.harness import ROOT
from hw_models.graph import OperatorGraph
from search.describe import describe
from techniques import export, lift, registry
from techniques.base import Transform
from techniques.context import Batch, TechniqueContext
from techniques.network import Network
from techniques.pruning import structured

FOLDER = ROOT / "build" / "hw_models" / "networks"
PRECISIONS = ("fp32", "int8")

# Family -> (library, architecture, two input sizes): one dense, one pruned to odd channel counts, of each size and precision.
FAMILIES = {
    "resnet": ("torchvision", "resnet18", (96, 160)),
    "resnext": ("torchvision", "resnext50_32x4d", (64, 112)),
    "wide_resnet": ("torchvision", "wide_resnet50_2", (64, 96)),
    "squeezenet": ("torchvision", "squeezenet1_1", (112, 224)),
    "densenet": ("torchvision", "densenet121", (64, 112)),
    "googlenet": ("torchvision", "googlenet", (96, 160)),
    "inception": ("torchvision", "inception_v3", (107, 139)),
    "mobilenet_v2": ("torchvision", "mobilenet_v2", (96, 224)),
    "mobilenet_v3": ("torchvision", "mobilenet_v3_large", (112, 224)),
    "mobilenet_v3_small": ("torchvision", "mobilenet_v3_small", (128, 224)),
    "mnasnet": ("torchvision", "mnasnet0_5", (128, 224)),
    "shufflenet": ("torchvision", "shufflenet_v2_x1_0", (112, 224)),
    "efficientnet": ("torchvision", "efficientnet_b0", (96, 192)),
    "regnet_x": ("torchvision", "regnet_x_400mf", (96, 160)),
    "regnet_y": ("torchvision", "regnet_y_400mf", (112, 192)),
    "vovnet": ("timm", "ese_vovnet19b_dw", (64, 112)),
    "lcnet": ("timm", "lcnet_100", (128, 224)),
    "repvgg": ("timm", "repvgg_a0", (64, 112)),
    "fbnet": ("timm", "fbnetc_100", (96, 160)),
    "tinynet": ("timm", "tinynet_e", (106, 160)),
}  # fmt: skip


@dataclass(frozen=True)
class TruthNetwork:
    """A written network. ``group`` is its family; ``pruned`` says that its channel counts are odd."""

    name: str
    group: str
    precision: str
    pruned: bool

    @property
    def onnx_path(self) -> Path:
        """The exported file."""
        return FOLDER / f"{self.name}.onnx"

    @property
    def graph_path(self) -> Path:
        """The operator graph."""
        return FOLDER / f"{self.name}.json"

    def graph(self) -> OperatorGraph:
        """The operator graph as `search.describe` saw it."""
        return OperatorGraph.from_json(self.graph_path.read_text())


class _RandomImages:
    """Calibration images of a network that was never trained."""

    def __init__(self, shape: tuple[int, int, int], count: int = 16) -> None:
        self._images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        """As `techniques.context.ImageSource`."""
        for start in range(0, len(self._images), batch_size):
            yield Batch(self._images[start : start + batch_size])


def family_networks() -> list[TruthNetwork]:
    """All networks of `FAMILIES`, whether written or not."""
    found = []
    for family, (_, _, sizes) in FAMILIES.items():
        for size in sizes:
            for pruned in (False, True):
                for precision in PRECISIONS:
                    name = f"{family}-{size}-{'odd' if pruned else 'dense'}-{precision}"
                    found.append(TruthNetwork(name, family, precision, pruned))
    return found


def write_families() -> None:
    """Write what is missing; minutes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for family, (library, architecture, sizes) in FAMILIES.items():
        for size in sizes:
            wanted = [n for n in family_networks() if n.name.startswith(f"{family}-{size}-")]
            if all(n.graph_path.exists() for n in wanted):
                continue
            dense = lift.from_module(_module(library, architecture), (3, size, size))
            networks = {False: dense, True: prune_oddly(dense, zlib.crc32(f"{family}-{size}".encode()))}
            for one in wanted:
                write(one, networks[one.pruned])


def write(one: TruthNetwork, network: Network) -> None:
    """Quantise where asked, export, describe."""
    if one.precision == "int8":
        network = quantize(network)
    one.onnx_path.write_bytes(export.to_onnx(network))
    one.graph_path.write_text(describe(network).to_json())


def quantize(network: Network) -> Network:
    """The int8 technique with random calibration images."""
    context = TechniqueContext(calibration=_RandomImages(network.input_shape))
    return _apply("int8_quantization", network, {}, context).eval()


def prune_oddly(network: Network, seed: int) -> Network:
    """Every group at a ratio of its own between 0.1 and 0.6, channel counts as they fall."""
    context = TechniqueContext(channel_multiple=1)
    generator = np.random.default_rng(seed)
    ratios = {group: float(generator.uniform(0.1, 0.6)) for group in structured.groups(network, context)}
    return _apply("structured_pruning", network, {"ratios": ratios}, context).eval()


def _apply(name: str, network: Network, config: dict[str, object], context: TechniqueContext) -> Network:
    technique = registry.get(name)
    if not isinstance(technique, Transform):
        raise TypeError(f"{name} is no transform")
    return technique.apply(network, technique.parse_config(config), context)


def _module(library: str, architecture: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    module: nn.Module
    if library == "timm":
        module = timm.create_model(architecture, pretrained=False)
    else:
        module = torchvision.models.get_model(architecture, weights=None, **options)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            # Identical biases keep quantised convolutions from fusing; no trained network has them.
            nn.init.normal_(part.bias, std=0.1)
    return module.eval()


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_families()
