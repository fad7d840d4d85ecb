"""Every torchvision CNN family through the whole way: lift, check at batch 1, 2 and 7, prune by half, export, run the file.

``python -m benchmarks.families [name ...]`` measures what is not yet in ``results/families.json``; with names, those again.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torchvision
from torch import nn

from techniques import export, lift, network_checks
from techniques.errors import TechniqueError
from techniques.network import Network
from techniques.pruning import dependency

RESULTS = Path(__file__).parent / "results"
PRUNING_RATIO = 0.5
MODELS = (
    "alexnet", "vgg11_bn", "vgg16", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "squeezenet1_1", "densenet121",
    "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5", "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0", "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny",
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
    """Half of every group's channels by L2 norm, through Torch-Pruning's dependency graph."""
    import torch_pruning as tp

    result = network.clone()
    pruner = tp.pruner.BasePruner(
        result.graph,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=PRUNING_RATIO,
        ignored_layers=dependency.output_layers(result),
        **dependency.pruner_arguments(result),
    )
    dependency.install(pruner.DG)
    pruner.step()
    return result


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


def measure(name: str) -> dict[str, Any]:
    """One row; an error is part of it, not the end."""
    size = _SIZES.get(name, _DEFAULT_SIZE)
    row: dict[str, Any] = {"model": name, "input": [3, size, size], "torchvision": torchvision.__version__}
    module = _module(name)
    try:
        start = time.perf_counter()
        network = lift.from_module(module, (3, size, size))
        row |= {"lift_ms": _milliseconds(start), "erased": list(network.erased), "size_is_free": network.size_is_free}
        row |= {"lift_error": _lift_error(network, module), "batches": list(network_checks.BATCHES)}
        row["parameters"] = network.parameter_count()
        start = time.perf_counter()
        with torch.enable_grad():
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


def checks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gates of "Must show 4", computed from the rows."""
    done = [row for row in rows if "error" not in row]
    worst = max((row["lift_error"] for row in done), default=float("inf"))
    ran = sum(row["pruned_runs"] and row["parameters_pruned"] < row["parameters"] for row in done)
    exported = max((row["onnx_error_pruned"] for row in done), default=float("inf"))
    everything = len(done) == len(MODELS)

    def check(line: str, figure: float, goal: str, holds: bool) -> dict[str, Any]:
        return {"must_show": f"end-to-end 4: {line}", "figure": figure, "goal": goal, "kind": "gate", "holds": holds}

    return [
        check("families lifted", len(done), f">= {len(MODELS)}", everything),
        check("largest lift error at batch 1, 2 and 7", worst, "<= 1e-05", everything and worst <= 1e-5),
        check("families pruned at 0.5 that run", ran, f">= {len(MODELS)}", ran == len(MODELS)),
        check("largest ONNX error of a pruned network", exported, "<= 0.0001", everything and exported <= 1e-4),
    ]


def _write(rows: list[dict[str, Any]]) -> None:
    order = {name: i for i, name in enumerate(MODELS)}
    rows = sorted(rows, key=lambda row: order.get(row["model"], len(order)))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    document = {
        "name": "families",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks.families",
        "commit": commit,
        "rows": rows,
        "checks": checks(rows),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "families.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "families.md").write_text(_table(document))


def _table(document: dict[str, Any]) -> str:
    head = "| model | input | lift error | lift ms | prune ms | export ms | parameters | pruned | ONNX error pruned | erased |"
    lines = [
        "# torchvision families: lifted, pruned by half, exported",
        "",
        f"{document['date']}, {document['machine']}, commit {document['commit']}, `{document['command']}`. Times under load, once.",
        "",
        head,
        "|---" * 10 + "|",
    ]
    for row in document["rows"]:
        if "error" in row:
            lines.append(f"| {row['model']} | {row['input'][1]} | {row['error']} |" + " |" * 7)
            continue
        figures = [f"{row['lift_error']:.1e}", f"{row['lift_ms']:.0f}", f"{row['prune_ms']:.0f}", f"{row['export_ms']:.0f}"]
        figures += [f"{row['parameters']:,}", f"{row['parameters_pruned']:,}", f"{row['onnx_error_pruned']:.1e}"]
        lines.append(f"| {row['model']} | {row['input'][1]} | {' | '.join(figures)} | {'; '.join(row['erased'])} |")
    lines += ["", *(f"- {c['must_show']}: {c['figure']} ({c['goal']}): holds = {c['holds']}" for c in document["checks"]), ""]
    return "\n".join(lines)


def main(names: list[str]) -> None:
    """Measure what is missing (or the names given) and write the results after every row."""
    path = RESULTS / "families.json"
    rows: dict[str, dict[str, Any]] = {}
    if path.exists():
        rows = {row["model"]: row for row in json.loads(path.read_text())["rows"] if "error" not in row}
    for name in names or [n for n in MODELS if n not in rows]:
        rows[name] = measure(name)
        print(json.dumps(rows[name]), flush=True)
        _write(list(rows.values()))
    _write(list(rows.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
