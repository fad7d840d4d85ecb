"""A runtime as somebody else would bring it: torch itself, on exported programs. Not part of Paretopress."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hw_models.graph import OperatorGraph
from hw_models.targets import Target
from search.evaluation.file_proof import FileDiffersError, largest_error
from search.evaluation.latency import LatencyResult
from search.protocols import Measurement
from search.runtimes import Artifact, Runtime
from techniques.export import to_pt2
from techniques.network import Network

_RUNS = 30


class ProgramFile(Artifact):
    """An exported program."""

    name = "model.program"
    size_name = "program_size_bytes"

    def write(self, network: Network, batch: int) -> bytes:
        """See the base."""
        with tempfile.TemporaryDirectory() as folder:
            to_pt2(network, Path(folder) / "network.pt2")
            return (Path(folder) / "network.pt2").read_bytes()

    def predicted_size_bytes(self, graph: OperatorGraph) -> int:
        """Weights as they are, and what an archive takes beside them."""
        return 20_000 + sum(int(np.prod(op.weight_shape)) * 4 for op in graph.operators if op.weight_shape)

    def counts(self, file: bytes, network: Network) -> dict[str, Measurement]:
        """See the base."""
        return {"parameters": Measurement(network.parameter_count(), "counted")}


class TorchRuntime(Runtime):
    """torch on this machine."""

    name = "torch"
    artifact: ClassVar[Artifact] = ProgramFile()
    ran: ClassVar[int] = 0

    def run(self, file: bytes, images: npt.NDArray[np.float32], target: Target, threads: int) -> npt.NDArray[np.float32]:
        """See the base."""
        type(self).ran += 1
        with torch.no_grad():
            outputs: Tensor = torch.export.load(io.BytesIO(file)).module()(torch.from_numpy(images))
        return outputs.numpy()

    def prove(self, network: Network, file: bytes, images: Tensor, target: Target) -> None:
        """See the base."""
        with torch.no_grad():
            error = largest_error(self.run(file, images.numpy(), target, 1), network(images).numpy())
        if error > 1e-4:
            raise FileDiffersError(f"the program differs by {error:.2g}")

    def measure(
        self, files: Mapping[str, bytes], target: Target, reference: str, *, batch: int, limit_s: float
    ) -> Mapping[str, LatencyResult]:
        """See the base."""
        found = {}
        for name, file in files.items():
            module, images = torch.export.load(io.BytesIO(file)).module(), torch.zeros(max(batch, 2), 1, 12, 12)
            taken_ms = []
            for _ in range(_RUNS):
                began = time.perf_counter()
                module(images)
                taken_ms.append(1000 * (time.perf_counter() - began))
            value_ms = statistics.median(taken_ms)
            found[name] = LatencyResult(
                Measurement(value_ms, "measured", 0.05 * value_ms, 3), 1.05 * value_ms, (value_ms,), 0.0, False
            )
        return found
