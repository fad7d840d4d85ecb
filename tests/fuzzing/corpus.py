"""Sound files of every format, small, from which the hostile ones are made."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

IMAGES = 24
ARCHITECTURE = "squeezenet1_1"
CLASSES = 3
Entries = dict[str, bytes]


@dataclass(frozen=True)
class Corpus:
    """One sound file per format; ``outside`` is where canaries aim at, an absolute path that must never exist."""

    outside: Path
    pt2: Entries
    onnx: onnx.ModelProto
    safetensors: bytes
    arrays: dict[str, Any]
    files: Entries

    @staticmethod
    def make(outside: Path) -> Corpus:
        """Takes some seconds: torch writes two of them."""
        return Corpus(outside, _pt2(), _onnx(), _safetensors(), _arrays(), _files())


def _pt2() -> Entries:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(net.eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes, strict=False)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def _onnx() -> onnx.ModelProto:
    random = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    weights = {"w1": weight(4, 1, 3, 3), "b1": weight(4), "w2": weight(CLASSES, 4), "b2": weight(CLASSES)}
    weights["axes"] = np.array([-1], np.int64)
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["logits"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _safetensors() -> bytes:
    from safetensors.torch import save
    from torchvision import models

    return bytes(save(models.get_model(ARCHITECTURE, weights=None, num_classes=CLASSES).eval().state_dict()))


def _arrays() -> dict[str, Any]:
    images = np.random.default_rng(0).integers(0, 255, (IMAGES, 4, 4), np.uint8)
    return {"images": images, "labels": np.arange(IMAGES) % CLASSES, "group_camera": np.repeat(["a", "b"], IMAGES // 2)}


def _files() -> Entries:
    """Class folders with every image format that is read."""
    found = {}
    kinds = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "PPM": "pgm", "TIFF": "tif", "GIF": "gif"}
    for index in range(IMAGES):
        kind = list(kinds)[index % len(kinds)]
        buffer = io.BytesIO()
        Image.fromarray(_arrays()["images"][index]).save(buffer, kind)
        found[f"{'cat' if index % 2 else 'dog'}/{index}.{kinds[kind]}"] = buffer.getvalue()
    return found


def zipped(entries: Entries, compression: int = zipfile.ZIP_DEFLATED, root: str = "") -> bytes:
    """A zip of these entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(root + name, content)
    return buffer.getvalue()


def pt2_archive(entries: Entries) -> bytes:
    """A ``.pt2`` of these entries."""
    return zipped(entries, zipfile.ZIP_STORED, "archive/")


def tarred(entries: Entries, packing: str = "") -> bytes:
    """A tar of these entries; ``packing`` is ``gz``, ``bz2``, ``xz`` or nothing."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{packing}") as archive:  # type: ignore[call-overload]
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def saved_arrays(arrays: dict[str, Any], packed: bool = False) -> bytes:
    """An npz of these arrays."""
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, **arrays)
    return buffer.getvalue()
