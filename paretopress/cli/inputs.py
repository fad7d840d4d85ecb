"""From options to uploads of models and datasets, for the nouns' own commands and for ``search``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretopress.cli.choices import Augmentation, Crop, Interpolation, Layout, Resize, ValueRange, names, number, numbers
from paretopress.cli.context import TransferBar, UsageError
from paretopress.client import Client
from paretopress.v1 import dataset_pb2, model_pb2

_DATASET_SUFFIXES: Mapping[str, Any] = {
    ".npz": dataset_pb2.Dataset.NPZ,
    ".csv": dataset_pb2.Dataset.CSV,
    ".tsv": dataset_pb2.Dataset.CSV,
    ".zip": dataset_pb2.Dataset.ZIP,
    ".tar": dataset_pb2.Dataset.TAR,
    ".tgz": dataset_pb2.Dataset.TAR,
    ".gz": dataset_pb2.Dataset.TAR,
    ".bz2": dataset_pb2.Dataset.TAR,
    ".xz": dataset_pb2.Dataset.TAR,
}


@dataclass(frozen=True)
class ModelSource:
    """A model file and how to read it."""

    path: Path
    architecture: str = ""
    channels: int = 0
    height: int = 0
    width: int = 0
    num_classes: int = 0
    model_id: str = ""
    display_name: str = ""

    def upload(self, client: Client, silent: bool) -> model_pb2.Model:
        """Send it."""
        format = model_format(self.path, self.architecture)
        options = model_pb2.ArchitectureOptions(
            channels=self.channels, height=self.height, width=self.width, num_classes=self.num_classes
        )
        with TransferBar(f"uploading {self.path.name}", silent) as bar:
            return client.upload_model(
                self.path,
                format,
                architecture=self.architecture,
                options=options,
                model_id=self.model_id,
                display_name=self.display_name,
                progress=bar,
            )


@dataclass(frozen=True)
class DatasetSource:
    """A dataset file and the preprocessing that the model expects."""

    path: str
    height: int = 0
    width: int = 0
    channels: int = 0
    mean: str = ""
    std: str = ""
    range: ValueRange = ValueRange.ZERO_TO_ONE
    layout: Layout = Layout.NHWC
    resize: Resize = Resize.NONE
    resize_size: int = 0
    crop: Crop = Crop.NONE
    interpolation: Interpolation = Interpolation.BILINEAR
    augmentation: Augmentation = Augmentation.SHIFT
    skip_bad: bool = False
    class_names: str = ""
    dataset_id: str = ""
    display_name: str = ""
    on_server: bool = False

    def preprocessing(self) -> dataset_pb2.Preprocessing:
        """What is done to an image."""
        return dataset_pb2.Preprocessing(
            height=self.height,
            width=self.width,
            channels=self.channels,
            mean=numbers(self.mean, "--mean"),
            std=numbers(self.std, "--std"),
            range=number(self.range),
            layout=number(self.layout),
            resize=number(self.resize),
            resize_size=self.resize_size,
            crop=number(self.crop),
            interpolation=number(self.interpolation),
        )

    def upload(self, client: Client, silent: bool) -> dataset_pb2.Dataset:
        """Send it, or have the server read it where it lies."""
        classes = names(self.class_names, "--class-names")
        options = dataset_pb2.DatasetOptions(skip_bad=self.skip_bad, augmentation=number(self.augmentation), class_names=classes)
        titles = {"dataset_id": self.dataset_id, "display_name": self.display_name}
        format = dataset_format(self.path, self.on_server)
        if self.on_server:
            return client.import_dataset(self.path, format, self.preprocessing(), options=options, **titles)
        with TransferBar(f"uploading {Path(self.path).name}", silent) as bar:
            return client.upload_dataset(self.path, format, self.preprocessing(), options=options, progress=bar, **titles)


def is_file(text: str, collection: str) -> bool:
    """Whether an argument is a file here, and no name of what was uploaded.

    Raises:
        UsageError: it is a folder, or looks like a path to nothing.
    """
    path = Path(text)
    if path.is_dir() and collection == "datasets":
        raise UsageError(f"{text} is a folder; pack it as a zip or tar first")
    if not path.exists() and not text.startswith("projects/") and ("/" in text or path.suffix):
        raise UsageError(f"there is no file {text}")
    return path.exists()


def model_format(path: Path, architecture: str) -> Any:
    """The format by the file's name.

    Raises:
        UsageError: the file is not there, or its name says nothing.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    if path.suffix == ".onnx":
        return model_pb2.Model.ONNX
    if path.suffix == ".safetensors":
        if not architecture:
            raise UsageError("a .safetensors file holds weights only: name the network with --architecture, such as resnet18")
        return model_pb2.Model.ARCHITECTURE
    if path.suffix in (".pt2", ".pt", ".pth"):
        return model_pb2.Model.PT2
    raise UsageError(f"{path.name}: cannot tell the format; known are .pt2, .onnx and .safetensors")


def dataset_format(path: str, on_server: bool) -> Any:
    """The format by the file's name; a folder on the server is read like an archive of class folders.

    Raises:
        UsageError: the file is not there, or its name says nothing.
    """
    suffix = Path(path).suffix.lower()
    if not on_server and not Path(path).is_file():
        advice = "; pack the folder as a zip or tar first" if Path(path).is_dir() else ""
        raise UsageError(f"{path} is not a file{advice}")
    if suffix in _DATASET_SUFFIXES:
        return _DATASET_SUFFIXES[suffix]
    if on_server:
        return dataset_pb2.Dataset.ZIP
    known = ", ".join(sorted(_DATASET_SUFFIXES))
    advice = "save arrays with np.savez_compressed('data.npz', images=images, labels=labels), pack image files as a zip"
    raise UsageError(f"{path}: cannot tell the format; known are {known}: {advice}")
