from __future__ import annotations

import pytest
import torch
from torch import nn

from techniques.channel_ops import ChannelNorm


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_a_channel_norm_normalises_every_position_over_its_channels(affine: bool) -> None:
    weight, bias = (nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))) if affine else (None, None)
    images = torch.randn(2, 6, 3, 5) * 4 + 1
    mean, variance = images.mean(1, keepdim=True), images.var(1, keepdim=True, unbiased=False)
    expected = (images - mean) / torch.sqrt(variance + 1e-6)
    if weight is not None and bias is not None:
        expected = expected * weight[:, None, None] + bias[:, None, None]
    norm = ChannelNorm(6, weight, bias, 1e-6)
    assert torch.allclose(norm(images), expected, atol=1e-5)
    assert len(list(norm.parameters())) == 2 * affine
