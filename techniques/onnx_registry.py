"""The exporter's table of operators, read once for a process instead of once for an export.

`torch.onnx.export` reads the source of some 500 functions anew each time, over a second of it: more than a small network's export
takes besides. There is no public way to hand it a table.
"""

from __future__ import annotations

import functools

from torch.onnx._internal.exporter import _registration
from torch.onnx._internal.exporter._registration import ONNXRegistry

_TORCHLIB_OPSET: int = _registration._constants.TORCHLIB_OPSET  # type: ignore[attr-defined]
_read = ONNXRegistry.from_torchlib


@functools.cache
def _table(opset_version: int) -> ONNXRegistry:
    return _read(opset_version=opset_version)


def _copied(opset_version: int = _TORCHLIB_OPSET) -> ONNXRegistry:
    """A registry of its own for each export: callers add to it."""
    known, registry = _table(opset_version), ONNXRegistry()
    registry._opset_version = known._opset_version
    registry.functions = {target: list(found) for target, found in known.functions.items()}
    return registry


def keep() -> None:
    """From now on, let all exports of this process share what was read."""
    ONNXRegistry.from_torchlib = staticmethod(_copied)  # type: ignore[method-assign]
