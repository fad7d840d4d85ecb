"""A server of its own for the searches of the benchmarks of "promises", and what they are about."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.harness import ROOT
from examples.demo import OUT, Subject, export_pt2, prepare
from paretopress.client import Client
from paretopress.v1 import dataset_pb2, model_pb2, search_pb2

TARGET = "projects/default/targets/cpu-ort-1t"
_MARKER = "Paretopress listens on "
_START_S = 180.0


class PromisesServer:
    """`paretopress serve` on a folder of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def start(self) -> None:
        """Start; returns once it listens."""
        log = self.folder / "server.log"
        command = [str(Path(sys.executable).with_name("paretopress")), "serve", "--port", "0", "--no-mlflow-ui"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PARETOPRESS_LEASE_S": "10"}
        with log.open("wb") as file:
            command += ["--data-dir", str(self.folder / "data")]
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + _START_S
        while _MARKER not in (text := log.read_text()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {text[-1000:]}")
            time.sleep(0.1)
        self.address = text.split(_MARKER, 1)[1].split(";", 1)[0]

    def end(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """End it, or kill it."""
        if self._process is not None:
            self._process.send_signal(sign)
            self._process.wait(60)


@contextmanager
def fresh_server(name: str) -> Iterator[PromisesServer]:
    """One that knows nothing yet, in ``build``."""
    folder = ROOT / "build" / name.replace("_", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    server = PromisesServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.end()


def upload_resnet(server: PromisesServer, images_of_split: int | None = None) -> search_pb2.Search:
    """ResNet-20 and Fashion-MNIST, as the request that all searches are made from; the target is calibrated by the idle worker.

    Args:
        images_of_split: how many images of each split, at most; None takes all.
    """
    OUT.mkdir(parents=True, exist_ok=True)
    subject = prepare()
    if images_of_split is not None:
        subject = replace(subject, data=_first_images(subject.data, images_of_split, server.folder))
    given = upload(server, subject, server.folder)
    given.budget.max_accuracy_drop_points = 3.0
    return given


def upload(server: PromisesServer, subject: Subject, folder: Path) -> search_pb2.Search:
    """A network and its data, as a request that lacks its budget.

    Args:
        folder: for the exported program.
    """
    export_pt2(subject.network, folder / "original.pt2")
    how = dataset_pb2.Preprocessing(height=28, width=28, channels=1, mean=[subject.mean], std=[subject.std])
    augmentation = dataset_pb2.DatasetOptions.Augmentation.Value(subject.augmentation.replace("-", "_").upper())
    options = dataset_pb2.DatasetOptions(augmentation=augmentation)
    with Client(server.address) as client:
        model = client.upload_model(folder / "original.pt2", model_pb2.Model.PT2)
        data = client.upload_dataset(subject.data, dataset_pb2.Dataset.NPZ, how, options=options)
        while not client.get_target(TARGET).calibrated:
            time.sleep(1)
    return search_pb2.Search(model=model.name, dataset=data.name, target=TARGET)


def _first_images(data: Path, count: int, folder: Path) -> Path:
    """The first so many images of each split, as a file in ``folder``."""
    with np.load(data) as found:
        split = found["split"]
        kept = np.concatenate([np.flatnonzero(split == name)[:count] for name in np.unique(split)])
        arrays = {name: values[kept] if len(values) == len(split) else values for name, values in found.items()}
    path = folder / "data.npz"
    np.savez_compressed(path, **arrays)
    return path
