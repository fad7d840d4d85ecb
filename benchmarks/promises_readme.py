"""README.md's commands from a fresh clone: `make`, a real server, real searches. Blocks and words are the file's own.

What is not as it stands there: images of 32 x 32 in place of 224, names of resources, ports, and searches of three trials.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.harness import ROOT, Check, Results, Row
from examples import digits
from examples.to_npz import write_npz
from paretopress.client import Client
from tests.readme_tour import EXAMPLE_CANDIDATE, EXAMPLE_DATASET, Tour, blocks, candidate_in, commands, write_certificates
from tests.service.ports import free_port

NAME = "promises_readme"
CELLS = (
    "make",
    "import torch",
    "paretopress search",
    "from paretopress",
    "paretopress schedules",
    "export PARETOPRESS_AUTH=tokens",
)
_SIDE, _HELD_OUT, _STEPS = 32, 400, 150
_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
_SHORT = "--trials 3 --epochs 0"
_SHORT_IN_PYTHON = {"target=": "effort=search_pb2.Effort(max_trials=3, max_epochs=0),\n            target="}


def run(results: Results) -> None:
    """One clone, one server, in the file's order."""
    if all(results.find(cell) for cell in CELLS):
        return
    with tempfile.TemporaryDirectory(prefix="paretopress-readme-", dir="/var/tmp") as name:
        tour = clone(Path(name))
        text = blocks((tour.folder / "README.md").read_text())
        results.cell("make", lambda: _timed(lambda: install(tour, text["make"])), again=True)
        results.cell("import torch", lambda: _timed(lambda: tour.python(text["import torch"])), again=True)
        make_inputs(tour.folder)
        (serve,) = commands(text["paretopress serve"])
        with tour.serving(serve):
            use(tour, text, results)
        cell = "export PARETOPRESS_AUTH=tokens"
        results.cell(cell, lambda: _timed(lambda: let_others_in(tour, text[cell])), again=True)


def clone(folder: Path) -> Tour:
    """What is committed, and a shell with a home of its own and nothing of ours in it."""
    checkout, port = folder / "paretopress", free_port()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    ours = ("PARETOPRESS_", "PYTHONPATH", "VIRTUAL_ENV", "MAKE", "MFLAGS")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    address = f"127.0.0.1:{port}"
    ports = {"PARETOPRESS_PORT": str(port), "PARETOPRESS_ADDRESS": address, "PARETOPRESS_MLFLOW_PORT": str(free_port())}
    replaced = {"224, 224": f"{_SIDE}, {_SIDE}", "=224": f"={_SIDE}", "127.0.0.1:50051": address}
    return Tour(checkout, {**plain, "HOME": str(folder), "COLUMNS": "80", **ports}, replaced)


def install(tour: Tour, block: str) -> None:
    """``make``, and what activating does for the commands that follow."""
    make, activate = commands(block)
    tour.run(make)
    tour.environment["PATH"] = tour.run(f"{activate.partition('#')[0]} && printenv PATH").strip()


def make_inputs(folder: Path) -> None:
    """``model.pt2`` and ``images.npz``: a small network of colour images, trained for seconds on enlarged digits."""
    data = digits.load()
    train, test = (_enlarged(images) for images in (data.train_images, data.test_images))
    torch.manual_seed(0)
    network = nn.Sequential(
        *_block(3, 16, 4), *_block(16, 32, 1), *_block(32, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )
    x = ((torch.from_numpy(train[:-_HELD_OUT]).float() / 255 - _MEAN) / _STD).permute(0, 3, 1, 2)
    y = torch.from_numpy(data.train_labels[:-_HELD_OUT])
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(_STEPS):
        index = torch.randint(0, len(x), (64,))
        loss = nn.functional.cross_entropy(network(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(network.eval(), (x[:2].contiguous(),), dynamic_shapes=dynamic, strict=False)
    torch.export.save(program, folder / "model.pt2")
    coloured = dataclasses.replace(data, train_images=train, test_images=test)
    write_npz(folder / "images.npz", coloured, _HELD_OUT, digits.CLASS_NAMES)


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _enlarged(images: np.ndarray) -> np.ndarray:
    scale = _SIDE // images.shape[1]
    return np.stack([images.repeat(scale, 1).repeat(scale, 2)] * 3, axis=-1)


def use(tour: Tour, text: dict[str, str], results: Results) -> None:
    """The commands for a client, each with what the one before gave."""

    def search_and_download() -> None:
        search, download = commands(text["paretopress search"])
        tour.replaced[EXAMPLE_CANDIDATE] = candidate_in(tour.run(search, _SHORT))
        tour.run(download)
        assert list((tour.folder / "compressed").glob("*.onnx")), "nothing was downloaded"

    def schedule() -> None:
        with Client(tour.environment["PARETOPRESS_ADDRESS"]) as client:
            tour.replaced[EXAMPLE_DATASET] = next(iter(client.list_datasets())).name.rpartition("/")[2]
        tour.run(*commands(text["paretopress schedules"]))

    def client() -> None:
        tour.replaced |= _SHORT_IN_PYTHON
        tour.python(text["from paretopress"])
        assert (tour.folder / "best.onnx").stat().st_size

    for cell, action in zip(CELLS[2:5], (search_and_download, client, schedule), strict=True):
        results.cell(cell, lambda action=action: _timed(action), again=True)  # type: ignore[misc]


def let_others_in(tour: Tour, block: str) -> None:
    """A server with TLS and tokens, and a second token made over it with the first."""
    write_certificates(tour)
    on_server, create_first, serve, on_client, create_second = commands(block)
    tour.export(on_server)
    tour.replaced["pp_..."] = tour.run(create_first).strip()
    with tour.serving(serve):
        tour.export(on_client)
        assert "pp_" in tour.run(create_second), "no token was shown"


def _timed(action: Callable[[], object]) -> Row:
    began = time.monotonic()
    try:
        action()
    except AssertionError as error:
        return {"status": 1, "seconds": round(time.monotonic() - began, 1), "said": str(error).splitlines()[-40:]}
    return {"status": 0, "seconds": round(time.monotonic() - began, 1)}


def checks(rows: Sequence[Row]) -> list[Check]:
    """Must show 7."""
    status = {row["cell"]: row.get("status") for row in rows}
    return [Check(f"promises 7 {cell}", status.get(cell), "== 0") for cell in CELLS]
