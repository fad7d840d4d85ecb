"""A small real search for tests: a ResNet-8 trained for seconds on scikit-learn's 8x8 digits, uploaded through the client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from examples import digits
from examples.resnet import ResNet
from examples.to_npz import write_npz
from examples.train_fashion import train
from hw_models.predictor import Predictor
from hw_models.targets import builtin_targets
from paretopress.client import Client
from paretopress.v1 import dataset_pb2, model_pb2, search_pb2
from service.testing import InProcessServer

HELD_OUT = 400
TARGET = "projects/default/targets/cpu-ort-1t"
NO_TRAINING = ("block_removal", "structured_pruning", "int8_quantization")

ALL = ("block_removal", "structured_pruning", "distillation", "int8_quantization")
"""Techniques: all that a small network of digits can take."""


@dataclass(frozen=True)
class Inputs:
    """Files of a trained network and its data."""

    model: Path
    data: Path


def make_inputs(folder: Path) -> Inputs:
    """Train, export, write the arrays."""
    data = digits.load()
    torch.manual_seed(0)
    network = ResNet(depth=8, widths=(16, 16, 32))
    x = torch.from_numpy(data.train_images.copy()).float().unsqueeze(1) / 255
    x = (x - digits.MEAN) / digits.STD
    train(network, x[:-HELD_OUT], torch.from_numpy(data.train_labels[:-HELD_OUT]), epochs=8, seed=0, batch=64)
    inputs = Inputs(folder / "digits.pt2", folder / "digits.npz")
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(network.eval(), (x[:2],), dynamic_shapes=dynamic, strict=False), inputs.model)
    write_npz(inputs.data, data, HELD_OUT, digits.CLASS_NAMES)
    return inputs


def preprocessing(mean: float = digits.MEAN, std: float = digits.STD) -> dataset_pb2.Preprocessing:
    """How the images are prepared."""
    return dataset_pb2.Preprocessing(height=8, width=8, channels=1, mean=[mean], std=[std])


def upload(client: Client, inputs: Inputs, prepared: dataset_pb2.Preprocessing | None = None) -> tuple[str, str]:
    """Names of the uploaded model and dataset."""
    model = client.upload_model(inputs.model, model_pb2.Model.PT2)
    dataset = client.upload_dataset(inputs.data, dataset_pb2.Dataset.NPZ, prepared or preprocessing())
    return model.name, dataset.name


def search(
    model: str,
    dataset: str,
    budget: search_pb2.Budget,
    trials: int = 3,
    epochs: float = 0.0,
    techniques: tuple[str, ...] = NO_TRAINING,
    wall_time_s: int = 200,
) -> search_pb2.Search:
    """A search of a few trials."""
    effort = search_pb2.Effort(max_trials=trials, max_epochs=epochs, seed=1)
    effort.max_wall_time.FromSeconds(wall_time_s)
    return search_pb2.Search(model=model, dataset=dataset, target=TARGET, budget=budget, effort=effort, techniques=techniques)


def place_predictors(data_dir: Path) -> None:
    """Uncalibrated predictors where the worker would put measured ones: these tests are not about calibration."""
    (data_dir / "targets").mkdir(parents=True)
    for target in builtin_targets():
        (data_dir / "targets" / f"{target.name}.json").write_text(Predictor.uncalibrated(target).to_json())


def searching_server(folder: Path) -> InProcessServer:
    """With a real worker that measures for seconds only."""
    return InProcessServer(folder, embedded_worker=True, measure_limit_s=5.0)
