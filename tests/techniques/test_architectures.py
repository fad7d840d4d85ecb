from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from techniques import architectures
from techniques.errors import UnsupportedNetworkError


def _layer() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_weights_are_loaded_strictly(tmp_path: Path) -> None:
    source, target = _layer(), _layer()
    save_file({k: v for k, v in source.state_dict().items() if "num_batches" not in k}, tmp_path / "w.safetensors")
    architectures.load_weights(target, tmp_path / "w.safetensors")
    assert torch.equal(target[0].weight, source[0].weight)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    tensors = dict(_layer().state_dict())
    del tensors["0.bias"]
    tensors |= {"0.weight": torch.zeros(9, 3, 3, 3), "head.weight": torch.zeros(1)}
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(UnsupportedNetworkError) as caught:
        architectures.load_weights(_layer(), tmp_path / "w.safetensors")
    for said in ("missing (0.bias)", "unexpected (head.weight)", "0.weight (9, 3, 3, 3) instead of (4, 3, 3, 3)"):
        assert said in str(caught.value)


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x02cos\nsystem\n")
    with pytest.raises(UnsupportedNetworkError, match="not a safetensors file"):
        architectures.load_weights(_layer(), tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["resnet1999", "timm/resnet1999", "../resnet18"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedNetworkError, match="unknown"):
        architectures.build(name, 10, input_shape=(3, 32, 32))


def test_torchvision_and_timm_names() -> None:
    network = architectures.build("squeezenet1_1", 7, input_shape=(3, 32, 32))
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    network = architectures.build("timm/resnet10t", 5, input_shape=(1, 32, 32))
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 5)
