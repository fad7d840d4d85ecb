"""Proof of an exported file: ONNX Runtime, as the target runs it, computes what the torch network does on real images.

A float file is compared by its outputs. An integer file is compared value by value: every quantised value in the runtime lies
within two steps of what the simulation makes of the runtime's own inputs to it, so that neither rounding adds up nor a fault hides
behind it. Where a file differs, the layer is named (`file_layers`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paretopress.runtime.session import RuntimeModelError, run_classifier
from search.errors import SearchError
from search.evaluation.file_layers import Deviation, first_float_deviation, integer_deviations
from techniques.network import Network
from techniques.quantization.layers import ActivationQuantizer

PROOF_IMAGES = 64
_OUTPUT_VALUES = 1 << 25
INTEGER_IMAGES = 8
FLOAT_ERROR = 1e-4
"""Of the outputs' scale: float32 sums in another order differ by less than 1e-5 of it in every family that is tested."""
INTEGER_ERROR = 0.2
"""Mean difference of an integer file's outputs over their spread, once all values were found right one by one. Values on the edge
between two steps fall to either side, and depth makes more of it: 1e-4 in shallow networks, 0.036 in efficientnet-lite0."""
UNMATCHED_INTEGER_ERROR = 0.05
"""The same where the values could not be compared one by one: the faults that were found made 0.05 to 0.9."""


class FileDiffersError(SearchError):
    """The exported file computes something else than the network; the message names the layer.

    Attributes:
        layers: qualified names of the layers at the difference.
    """

    def __init__(self, message: str, layers: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.layers = layers


@dataclass(frozen=True)
class FileProof:
    """What was compared.

    Attributes:
        error: largest difference of the outputs over their scale; for an integer file, the mean one over their spread.
        images: how many were run.
        values: quantised values that were compared one by one.
    """

    error: float
    images: int
    values: int = 0


def prove_file(network: Network, onnx: bytes, images: Tensor, threads: int = 1, optimization: str = "all") -> FileProof:
    """Run file and network on images ``(n, channels, height, width)`` and compare.

    Args:
        network: what was exported, in evaluation behaviour.
        threads, optimization: the target's.

    Raises:
        FileDiffersError: the file computes something else, or does not run.
    """
    with torch.no_grad():
        values = network(images[:1]).numel()
        images = images[: max(1, min(PROOF_IMAGES, _OUTPUT_VALUES // values))]  # maps are large
        expected = torch.cat([network(part) for part in torch.split(images, 16)]).numpy()
    try:
        found = run_classifier(onnx, images.numpy(), threads=threads, optimization=optimization)
    except RuntimeModelError as reason:
        raise FileDiffersError(f"the exported file does not run: {reason}") from reason
    if found.shape != expected.shape:
        raise FileDiffersError(f"the exported file gives outputs of shape {found.shape}, the network {expected.shape}")
    if _is_quantized(network):
        return _integer_proof(network, onnx, images, found, expected, threads, optimization)
    error = largest_error(found, expected)
    if not error <= FLOAT_ERROR:
        deviation = first_float_deviation(network, onnx, images[:1], threads, optimization)
        raise _differs(
            f"outputs differ by {error:.2g} of their scale, {FLOAT_ERROR:g} is allowed", deviation, onnx, images, expected
        )
    return FileProof(error, len(images))


def largest_error(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Largest absolute difference over the largest absolute value; infinite where only one side is a number."""
    both = np.isfinite(found) & np.isfinite(expected)
    if not (both | ((found == expected) | (np.isnan(found) & np.isnan(expected)))).all():
        return float("inf")
    scale = float(np.abs(expected[both]).max(initial=0.0))
    return float(np.abs(found[both] - expected[both]).max(initial=0.0)) / max(scale, 1e-6)


def _is_quantized(network: Network) -> bool:
    return any(isinstance(module, ActivationQuantizer) for module in network.graph.modules())


def _integer_proof(
    network: Network,
    onnx: bytes,
    images: Tensor,
    found: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
    threads: int,
    optimization: str,
) -> FileProof:
    compared = integer_deviations(network, onnx, images[:INTEGER_IMAGES], threads, optimization)
    if compared.deviations:
        message = f"{len(compared.deviations)} quantised values differ from the simulation"
        layers = tuple(dict.fromkeys(layer for deviation in compared.deviations for layer in deviation.layers))
        raise FileDiffersError(f"the exported file differs: {message}, first {compared.deviations[0].describe()}", layers)
    spread = float(expected.std()) or max(float(np.abs(expected).max()), 1e-6)
    error = float(np.abs(found - expected).mean()) / spread if np.isfinite(found).all() else float("inf")
    limit, where = (
        (INTEGER_ERROR, "") if compared.values else (UNMATCHED_INTEGER_ERROR, " where values cannot be compared one by one")
    )
    if not error <= limit:
        raise FileDiffersError(
            f"the exported file differs: its outputs by {error:.2g} of their spread, {limit:g} is allowed{where}"
        )
    return FileProof(error, len(images), compared.values)


def _differs(
    message: str, deviation: Deviation | None, onnx: bytes, images: Tensor, expected: npt.NDArray[np.float32]
) -> FileDiffersError:
    """The error with its place, and whether the runtime's optimisations or the export made it."""
    plain = run_classifier(onnx, images.numpy(), optimization="none")
    culprit = "the runtime's optimisations" if largest_error(plain, expected) <= FLOAT_ERROR else "the export"
    where = f", first {deviation.describe()}" if deviation else ""
    return FileDiffersError(f"the exported file differs by {culprit}: {message}{where}", deviation.layers if deviation else ())
