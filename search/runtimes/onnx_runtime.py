"""ONNX Runtime, and the files that it runs. torch is imported where files are made or proven: the server does neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from hw_models.kernels import Kernel, kernels
from search.protocols import Measurement
from search.runtimes.base import Artifact, Runtime
from search.runtimes.onnx_size import estimated_onnx_size_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from hw_models.graph import OperatorGraph
    from hw_models.targets import Target
    from search.evaluation.latency import LatencyResult
    from techniques.network import Network


class OnnxFile(Artifact):
    """The stripped ONNX file."""

    name = "model.onnx"
    size_name = "onnx_size_bytes"

    def write(self, network: Network, batch: int) -> bytes:
        """See the base."""
        from techniques.export import to_onnx

        return to_onnx(network, dynamic_batch=batch > 1)

    def predicted_size_bytes(self, graph: OperatorGraph) -> int:
        """See the base."""
        return estimated_onnx_size_bytes(graph)

    def counts(self, file: bytes, network: Network) -> dict[str, Measurement]:
        """See the base."""
        from search.file_counts import file_counts

        return file_counts(file, network)


class OnnxRuntime(Runtime):
    """ONNX Runtime at the target's optimisation level."""

    name = "onnxruntime"
    artifact: ClassVar[Artifact] = OnnxFile()
    packages = ("onnxruntime", "onnx")

    def run(self, file: bytes, images: npt.NDArray[np.float32], target: Target, threads: int) -> npt.NDArray[np.float32]:
        """At the target's level: another one is another program, which may round otherwise. ``threads`` change the speed only."""
        from paretopress.runtime.session import run_classifier

        return run_classifier(file, images, threads=threads, optimization=target.proving_optimization)

    def prove(self, network: Network, file: bytes, images: Tensor, target: Target) -> None:
        """See the base."""
        from search.evaluation.file_proof import prove_file

        prove_file(network, file, images, target.threads, target.proving_optimization)

    def measure(
        self, files: Mapping[str, bytes], target: Target, reference: str, *, batch: int, limit_s: float
    ) -> Mapping[str, LatencyResult]:
        """See the base."""
        from search.evaluation.latency import measure_candidates

        return measure_candidates(files, target, reference, batch=batch, limit_s=limit_s)

    def kernels(self, graph: OperatorGraph, target: Target) -> tuple[Kernel, ...]:
        """By the rules of its fusions and layouts on x86."""
        return kernels(graph, target)
