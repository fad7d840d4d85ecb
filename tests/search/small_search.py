"""A whole search of a small network on random images, label-free, in this process: for tests of what can go wrong in one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hw_models.predictor import Predictor
from hw_models.targets import get_target
from search.dataset_file import SPLITS, DatasetMetadata, DatasetTensors, write
from search.environment import SearchEnvironment
from search.preprocessing import Preprocessing
from search.spec import Budget, Effort, SearchSpec
from techniques.export import to_pt2
from techniques.lift import from_module
from tests.search.memory import FolderBlobs, MemoryStore, SilentTracker

TARGET = "cpu-ort-1t"
SIDE = 12
IMAGES = 96


class SmallResidual(nn.Module):
    """Two convolutions to prune, a block to remove, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 16, 3, padding=1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.second(torch.relu(self.first(x)))
        output: Tensor = self.fc(torch.relu(x).mean((2, 3)))
        return output


@dataclass(frozen=True)
class SmallSearch:
    """What `search.job.run_search` takes, and the store that is left behind."""

    spec: SearchSpec
    environment: SearchEnvironment
    store: MemoryStore


def small_search(folder: Path, trials: int = 2, epochs: float | None = 0.0, wall_time_s: float = 600.0) -> SmallSearch:
    """Everything stored and ready to run."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    to_pt2(from_module(SmallResidual(), (1, SIDE, SIDE)), folder / "network.pt2")
    rng = np.random.default_rng(0)
    split = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), IMAGES // len(SPLITS))
    images = rng.integers(0, 255, (IMAGES, SIDE, SIDE, 1), dtype=np.uint8)
    preprocessing = Preprocessing(height=SIDE, width=SIDE, channels=1)
    write(folder / "data", DatasetTensors(images, split), DatasetMetadata(preprocessing, augment="none"))
    blobs, store = FolderBlobs(folder / "blobs"), MemoryStore()
    spec = SearchSpec(
        model_sha256=blobs.put_file(folder / "network.pt2"),
        dataset_sha256=blobs.put_file(folder / "data"),
        target=TARGET,
        budget=Budget(latency_ms=50.0, max_accuracy_drop_points=100.0),
        effort=Effort(max_trials=trials, max_wall_time_s=wall_time_s, max_epochs=epochs),
        metric="agreement",
    )
    environment = SearchEnvironment(
        search_name="projects/p/searches/s",
        store=store,
        blobs=blobs,
        tracker=SilentTracker(),
        predictor_json=Predictor.uncalibrated(get_target(TARGET)).to_json(),
        work_dir=folder / "work",
        measure_limit_s=1.0,
    )
    return SmallSearch(spec, environment, store)
