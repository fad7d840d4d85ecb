"""Small modules with the constructs that exports bake sizes into; shared by the tests of this folder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BakedView(nn.Module):
    """LeNet style: a written number of features, dropout, inplace relu."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8 * 7 * 7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm(self.conv(x)))
        x = torch.max_pool2d(x, 2)
        return self.fc(self.drop(x.view(-1, 8 * 7 * 7)))


class ShuffleBlock(nn.Module):
    """A split, two branches and a shuffle with written sizes, then a scale per channel and a LayerNorm over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.scale = nn.Parameter(torch.rand(16, 1, 1) + 0.5)
        self.norm = nn.LayerNorm(16)
        self.second = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = x.chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), dim=1)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * self.scale
        left, right = x.chunk(2, dim=1)
        x = torch.cat((left, self.second(right)), dim=1)
        return self.fc(x.mean((2, 3)))


def seeded(module: nn.Module) -> nn.Module:
    """Weights and batch norm statistics that are not the neutral ones; evaluation mode."""
    torch.manual_seed(0)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return module.eval()
