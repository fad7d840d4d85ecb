"""A pytest plugin: keeps every file that the tests export, with images and what the network gives on them.

``PARETOPRESS_EXPORTED_FILES`` names the folder. Loaded with ``-p``, before any test module takes the functions by name.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from techniques import export
from techniques.network import Network
from techniques.quantization.layers import ActivationQuantizer

IMAGES = 3
_FOLDER = Path(os.environ["PARETOPRESS_EXPORTED_FILES"])
_to_onnx, _to_pt2 = export.to_onnx, export.to_pt2


def _keeping_onnx(network: Network, dynamic_batch: bool = False) -> bytes:
    data = _to_onnx(network, dynamic_batch)
    _keep(network, data, ".onnx")
    return data


def _keeping_pt2(network: Network, path: Path) -> None:
    _to_pt2(network, path)
    _keep(network, path.read_bytes(), ".pt2")


@torch.no_grad()
def _keep(network: Network, data: bytes, suffix: str) -> None:
    name = hashlib.sha256(data).hexdigest()[:20]
    if (_FOLDER / f"{name}.npz").exists():
        return
    images = torch.randn(IMAGES, *network.input_shape, generator=torch.Generator().manual_seed(0))
    still = network.clone().eval()
    (_FOLDER / f"{name}{suffix}").write_bytes(data)
    np.savez(
        _FOLDER / f"{name}.npz",
        images=images.numpy(),
        outputs=still(images).numpy(),
        quantised=any(isinstance(module, ActivationQuantizer) for module in still.graph.modules()),
        test=os.environ.get("PYTEST_CURRENT_TEST", ""),
    )


export.to_onnx, export.to_pt2 = _keeping_onnx, _keeping_pt2
