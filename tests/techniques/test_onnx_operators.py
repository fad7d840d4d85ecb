"""Every operator of the ONNX reader against ONNX Runtime, on tiny models around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from techniques import onnx_import
from techniques.errors import TechniqueError
from tests.techniques.onnx_cases import CASES, REFUSALS, Case, Refusal


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_an_operator_computes_what_onnx_runtime_does(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(case.model().SerializeToString())
    network = onnx_import.from_onnx(path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    batch = case.batch if isinstance(case.batch, int) else 5
    images = torch.randn(batch, *case.shape, generator=torch.Generator().manual_seed(1))
    expected = session.run(None, {"x": images.numpy()})[0]
    with torch.no_grad():
        found = network(images).numpy()
        assert network(torch.cat([images, images])).shape[0] == 2 * batch
    if expected.ndim == 4 and expected.shape[2:] == (1, 1):
        expected = expected[:, :, 0, 0]  # a network whose maps are single numbers answers with these, as a classifier does
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= case.tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda r: r.case.name)
def test_what_cannot_be_read_names_the_node(refusal: Refusal, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(refusal.case.model().SerializeToString())
    with pytest.raises(TechniqueError, match=refusal.said):
        onnx_import.from_onnx(path)
