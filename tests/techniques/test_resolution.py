from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from techniques.errors import ConfigError
from techniques.lift import from_module
from techniques.resolution.resize import InputResolution, InputResolutionConfig, scaled_size
from techniques.shapes import layer_macs
from tests.techniques.digits import INPUT_SHAPE, context, digits, outputs, trained, untrained
from tests.techniques.test_quantization import through_onnxruntime


def test_callers_send_what_they_always_sent() -> None:
    smaller = InputResolution().apply(trained(), InputResolutionConfig(6, 5), context())
    images = digits()[1].images
    assert smaller.input_shape == INPUT_SHAPE
    resized = functional.interpolate(images, (6, 5), mode="bilinear", align_corners=False)
    assert torch.equal(outputs(smaller, images), outputs(trained(), resized))
    assert sum(layer_macs(smaller).values()) < sum(layer_macs(trained()).values())


def test_the_exported_file_resizes_itself(tmp_path: Path) -> None:
    smaller = InputResolution().apply(trained(), InputResolutionConfig(6, 6), context())
    images = digits()[1].images[:64]
    exported = through_onnxruntime(smaller, images, tmp_path)
    assert "Resize" in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    torch.testing.assert_close(exported.logits, outputs(smaller, images), rtol=1e-3, atol=1e-3)


def test_a_fixed_size_is_refused_with_its_reason() -> None:
    fixed = dataclasses.replace(untrained(), size_is_free=False, size_note="node view has 256 baked in")
    assert not InputResolution().options(fixed, context())
    with pytest.raises(ConfigError, match="256 baked in"):
        InputResolution().apply(fixed, InputResolutionConfig(6, 6), context())


def test_a_network_that_cannot_run_so_small_is_refused() -> None:
    deep = nn.Sequential(nn.Conv2d(1, 8, 7), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    network = dataclasses.replace(from_module(deep, INPUT_SHAPE), size_is_free=True)
    with pytest.raises(ConfigError, match="does not run at 4x4"):
        InputResolution().apply(network, InputResolutionConfig(4, 4), context())


def test_a_second_resize_is_refused() -> None:
    once = InputResolution().apply(untrained(), InputResolutionConfig(6, 6), context())
    assert not InputResolution().options(once, context())
    with pytest.raises(ConfigError, match="already"):
        InputResolution().apply(once, InputResolutionConfig(5, 5), context())


def test_scaled_size() -> None:
    assert scaled_size(untrained(), 0.75) == (6, 6)
    assert scaled_size(untrained(), 0.01) == (1, 1)
