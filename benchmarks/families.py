"""Every torchvision CNN family through the whole way: lift, check at batch 1, 2 and 7, prune by half, export, run the file.

Times are of one run each and say the order of magnitude, no more.
"""

from __future__ import annotations

import time

import numpy as np
import onnxruntime
import torch
import torchvision
from torch import nn

from benchmarks.harness import Check, Results, Row
from techniques import export, lift, network_checks, registry
from techniques.base import Transform
from techniques.context import TechniqueContext
from techniques.errors import TechniqueError
from techniques.network import Network
from techniques.pruning import structured

NAME = "families"
PRUNING_RATIO = 0.5
MODELS = (
    "alexnet", "vgg11_bn", "vgg16", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "squeezenet1_1", "densenet121", "googlenet",
    "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0",
    "efficientnet_b0", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny",
)  # fmt: skip
_SIZES = {"inception_v3": 299}
_DEFAULT_SIZE = 224


def _module(name: str) -> nn.Module:
    """A seeded random network whose batch norms have statistics of their own."""
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def _prune(network: Network) -> Network:
    """Half of every group's channels, by L2 norm."""
    context = TechniqueContext(channel_multiple=1)
    technique = registry.get("structured_pruning")
    ratios = dict.fromkeys(structured.groups(network, context), PRUNING_RATIO)
    if not isinstance(technique, Transform):
        raise TypeError("structured_pruning is no transform")
    return technique.apply(network, technique.parse_config({"ratios": ratios}), context)


def _milliseconds(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 1)


@torch.no_grad()
def _lift_error(network: Network, module: nn.Module) -> float:
    shape = network.input_shape
    images = [torch.randn(batch, *shape) for batch in network_checks.BATCHES]
    return max(network_checks.relative_error(network(x), module(x)) for x in images)


def _onnx_error(data: bytes, network: Network) -> float:
    images = torch.randn(1, *network.input_shape)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    output = session.run(None, {network.input_name: images.numpy()})[0]
    with torch.no_grad():
        expected = network(images).numpy()
    return float(np.abs(output - expected).max() / (np.abs(expected).max() or 1.0))


def measure(name: str) -> Row:
    """One row; an error is part of it, not the end."""
    size = _SIZES.get(name, _DEFAULT_SIZE)
    row: Row = {"input_size": size}
    module = _module(name)
    try:
        start = time.perf_counter()
        network = lift.from_module(module, (3, size, size))
        row |= {"lift_ms": _milliseconds(start), "erased": "; ".join(network.erased), "size_is_free": network.size_is_free}
        row |= {"lift_error": _lift_error(network, module), "batches": ", ".join(map(str, network_checks.BATCHES))}
        row["parameters"] = network.parameter_count()
        start = time.perf_counter()
        pruned = _prune(network).eval()
        row |= {"prune_ms": _milliseconds(start), "parameters_pruned": pruned.parameter_count()}
        with torch.no_grad():
            row["pruned_runs"] = all(pruned(torch.randn(b, 3, size, size)).shape == (b, 1000) for b in network_checks.BATCHES)
        start = time.perf_counter()
        data = export.to_onnx(pruned)
        row |= {"export_ms": _milliseconds(start), "onnx_size_bytes_pruned": export.onnx_size_bytes(data)}
        row["onnx_error_pruned"] = _onnx_error(data, pruned)
    except (TechniqueError, RuntimeError, ValueError, IndexError, AssertionError) as error:
        row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
    return row


def run(results: Results) -> None:
    """Measure the families that have no row yet, and again those that failed."""
    torch.set_num_threads(1)
    for name in MODELS:
        failed = "error" in (results.find(name) or {})
        results.cell(name, lambda name=name: measure(name), again=failed)  # type: ignore[misc]


def checks(rows: list[Row]) -> list[Check]:
    """Gates of "Must show 4", computed from the rows; a family that failed or has no row counts as not done."""
    done = [row for row in rows if "error" not in row]
    complete = len(done) == len(MODELS)
    worst = max((row["lift_error"] for row in done), default=None) if complete else None
    exported = max((row["onnx_error_pruned"] for row in done), default=None) if complete else None
    ran = sum(row["pruned_runs"] and row["parameters_pruned"] < row["parameters"] for row in done)
    return [
        Check("end-to-end 4 families lifted", len(done), f">= {len(MODELS)}"),
        Check("end-to-end 4 lift error", worst, "<= 1e-05"),
        Check("end-to-end 4 pruned at 0.5, run", ran, f">= {len(MODELS)}"),
        Check("end-to-end 4 ONNX error, pruned", exported, "<= 0.0001"),
    ]
