"""Imported by the fork server only: what its children need, loaded once. Never import it anywhere else."""

from __future__ import annotations

import contextlib
import importlib

_MODULES = (
    "numpy",
    "PIL.Image",
    "safetensors.torch",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "torch.onnx._internal.exporter._core",
    "torchvision",
    "service.intake.model_readers",
    "service.intake.dataset_readers",
    "service.child_functions",
    "techniques.architectures",
    "techniques.onnx_import",
)

for _name in _MODULES:
    with contextlib.suppress(Exception):  # what is wrong with it is told by the child that needs it
        importlib.import_module(_name)
