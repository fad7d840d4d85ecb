"""Counts of exported files: those of the file, or those of the network with a word about it; never the end of a search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from search import file_counts as module
from search.baseline import Original, baseline_record
from search.evaluation.metrics.base import AccuracyResult
from search.file_counts import count_notes
from search.protocols import CandidateRecord
from search.runtimes.onnx_runtime import OnnxFile
from search.spec import Budget, SearchSpec
from techniques.errors import UnsupportedNetworkError
from techniques.export import to_onnx
from techniques.lift import from_module

NORMS = {
    "groups": nn.GroupNorm(2, 8),
    "groups, no scales": nn.GroupNorm(2, 8, affine=False),
    "images": nn.InstanceNorm2d(8, affine=True),
    "images, no scales": nn.InstanceNorm2d(8),
}
MACS = 100 * 8 * 27 + 64 * 4 * 72 + 1024
ACCURACY = AccuracyResult("top1", 0.9, (0.8, 1.0), np.ones(1, bool), np.zeros((1, 4), np.float32))


def recorded(norm: nn.Module, dynamic_batch: bool = False) -> tuple[CandidateRecord, int]:
    """The baseline's record of a network with this norm, and the network's own parameters."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(256, 4))
    network = from_module(layers.eval(), (3, 12, 12)).eval()
    original = Original(network, None, to_onnx(network, dynamic_batch))  # type: ignore[arg-type]
    spec = SearchSpec(model_sha256="0" * 64, dataset_sha256="0" * 64, target="cpu-ort-1t", budget=Budget(latency_ms=1.0))
    return baseline_record(spec, original, ACCURACY, OnnxFile(), "0" * 64), network.parameter_count()


@pytest.mark.parametrize("dynamic_batch", [False, True], ids=["batch 1", "free batch"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_baseline_with_a_norm_in_the_file_is_counted(norm: str, dynamic_batch: bool) -> None:
    record, parameters = recorded(NORMS[norm], dynamic_batch)
    found = {name: (record.measurements[name].value, record.measurements[name].source) for name in ("macs", "parameters")}
    assert found == {"macs": (MACS, "counted"), "parameters": (parameters, "counted")}
    assert count_notes([record]) == []


@pytest.mark.parametrize("error", [UnsupportedNetworkError("no sizes"), KeyError("w0"), RuntimeError("inference")], ids=repr)
def test_what_cannot_be_counted_on_the_file_is_counted_on_the_network_and_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(_: bytes) -> Any:
        raise error

    monkeypatch.setattr(module, "count_file", fails)
    record, parameters = recorded(nn.Identity())
    found = {name: (record.measurements[name].value, record.measurements[name].source) for name in ("macs", "parameters")}
    assert found == {"macs": (MACS, "predicted"), "parameters": (parameters, "predicted")}
    assert count_notes([record, record]) == [
        "MACs and parameters of baseline are those of the network: they do not follow from the exported file"
    ]
