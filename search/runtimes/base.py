"""What runs a candidate on a target, and the file that it runs: the two contracts of this room. Imports nothing heavy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from hw_models.generic_rules import generic_kernels
from search.protocols import Measurement

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from hw_models.graph import OperatorGraph
    from hw_models.kernels import Kernel
    from hw_models.targets import Target
    from search.evaluation.latency import LatencyResult
    from techniques.network import Network


class Artifact(ABC):
    """What a candidate is written to. Its measured size is a limit by the name ``size_name``.

    Attributes:
        name: of the file, such as ``model.onnx``.
        size_name: of the measurement of its size.
        least_size_bytes: that any network takes; a limit below is a wrong unit.
    """

    name: ClassVar[str]
    size_name: ClassVar[str]
    least_size_bytes: ClassVar[int] = 100

    @abstractmethod
    def write(self, network: Network, batch: int) -> bytes:
        """The file of a network in evaluation behaviour; for more than one image per run, of one with a free batch."""

    @abstractmethod
    def predicted_size_bytes(self, graph: OperatorGraph) -> int:
        """How large it will be, before anything is built."""

    @abstractmethod
    def counts(self, file: bytes, network: Network) -> dict[str, Measurement]:
        """``macs`` of one image and ``parameters``: counted on the file, or predicted from its network."""


def measure_on(
    runtime: Runtime, files: Mapping[str, bytes], target: Target, reference: str, batch: int, limit_s: float
) -> Mapping[str, LatencyResult]:
    """`Runtime.measure` as a function, for whoever runs it in another process."""
    return runtime.measure(files, target, reference, batch=batch, limit_s=limit_s)


class Runtime(ABC):
    """What opens and runs files on a target: the accuracy and latency that decide are those that it gives.

    Attributes:
        name: as `hw_models.targets.Target.runtime` calls it.
        artifact: the file that it runs.
        packages: of Python, whose versions a report states.
    """

    name: ClassVar[str]
    artifact: ClassVar[Artifact]
    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def run(self, file: bytes, images: npt.NDArray[np.float32], target: Target, threads: int) -> npt.NDArray[np.float32]:
        """Outputs for images ``(n, channels, height, width)`` on this machine, computed as on the target."""

    @abstractmethod
    def prove(self, network: Network, file: bytes, images: Tensor, target: Target) -> None:
        """Check that the file computes what the network does.

        Raises:
            FileDiffersError: it does not, or does not run; names the layer.
        """

    @abstractmethod
    def measure(
        self, files: Mapping[str, bytes], target: Target, reference: str, *, batch: int, limit_s: float
    ) -> Mapping[str, LatencyResult]:
        """Latencies of files on an attached target, taking turns.

        Args:
            reference: the one of them that others are compared with.

        Raises:
            LatencyError: the target is not attached, or a file does not run; names it.
        """

    def kernels(self, graph: OperatorGraph, target: Target) -> tuple[Kernel, ...]:
        """What it runs for a graph, in execution order; unless it says otherwise, what every compiler makes of it."""
        return generic_kernels(graph, target)
