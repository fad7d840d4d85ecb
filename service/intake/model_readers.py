"""What the sandbox child does with a model: open it by its format, check it, write the canonical files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from search.describe import describe
from service.intake.errors import IntakeCode, IntakeError
from service.intake.limits import IntakeLimits
from service.intake.pickles import refuse_pickle
from techniques import export, lift
from techniques.errors import ConfigError, TechniqueError, UnsafeModelError
from techniques.head import find_head
from techniques.network import Network
from techniques.pt2_limits import ArchiveLimits

NETWORK_NAME, ONNX_NAME, GRAPH_NAME = "model.pt2", "model.onnx", "operator_graph.json"
_USUAL_SHAPE, _USUAL_CLASSES = (3, 224, 224), 1000
_TOLERANCE = 1e-4
"""Largest difference that writing and reading may make, relative to the largest output."""


def read_model(upload_path: str, format: str, options: dict[str, Any], limits: dict[str, Any], scratch: str) -> dict[str, Any]:
    """Entry point in the child: JSON in, the fields of `ModelFacts` out.

    Raises:
        IntakeError: the file is refused; the message names the op or the entry that stands in the way.
    """
    try:
        refuse_pickle(Path(upload_path), IntakeLimits(**limits))
        network = _open(Path(upload_path), format, options, IntakeLimits(**limits)).eval()
        return _write(network, Path(scratch))
    except TechniqueError as error:
        code: IntakeCode = "unsupported"
        if isinstance(error, UnsafeModelError):
            code = "unsafe"
        elif isinstance(error, ConfigError):
            code = "bad_option"
        raise IntakeError(code, str(error), "architecture" if code == "bad_option" else "model") from error


def _open(path: Path, format: str, options: dict[str, Any], limits: IntakeLimits) -> Network:
    if format == "pt2":
        return lift.from_pt2(path, _archive_limits(limits))
    # The zoos take seconds to import, so each reader comes with its format.
    if format == "onnx":
        from techniques import onnx_import

        allowed = onnx_import.OnnxLimits(
            file_bytes=limits.model_bytes,
            nodes=limits.model_nodes,
            tensors=limits.model_tensors,
            tensor_elements=limits.tensor_elements,
            input_elements=limits.input_elements,
        )
        return onnx_import.from_onnx(path, allowed)
    from techniques import architectures

    name = options["architecture"]
    usual = _usual_shape(name)
    shape = (options["channels"] or usual[0], options["height"] or usual[1], options["width"] or usual[2])
    return architectures.build(name, options["num_classes"] or _USUAL_CLASSES, input_shape=shape, safetensors_path=path)


def _archive_limits(limits: IntakeLimits) -> ArchiveLimits:
    return ArchiveLimits(
        total_bytes=limits.model_bytes,
        entries=limits.model_tensors,
        json_bytes=limits.json_bytes,
        nodes=limits.model_nodes,
        tensor_elements=limits.tensor_elements,
        input_elements=limits.input_elements,
    )


def _usual_shape(name: str) -> tuple[int, int, int]:
    """``(channels, height, width)`` that an architecture was published for; an unknown name is told by `build`."""
    if name.startswith("timm/"):
        import timm

        config = timm.get_pretrained_cfg(name.removeprefix("timm/"), allow_unregistered=True)
        channels, height, width = getattr(config, "input_size", None) or _USUAL_SHAPE
        return channels, height, width
    from torchvision import models

    if name not in models.list_models(module=models):
        return _USUAL_SHAPE
    side = int(models.get_model_weights(name).DEFAULT.transforms().crop_size[0])
    return 3, side, side


def _write(network: Network, scratch: Path) -> dict[str, Any]:
    network_path, onnx_path, graph_path = (scratch / name for name in (NETWORK_NAME, ONNX_NAME, GRAPH_NAME))
    export.to_pt2(network, network_path)
    _check_same(network, lift.from_pt2(network_path))
    onnx = export.to_onnx(network)
    onnx_path.write_bytes(onnx)
    graph = describe(network)
    graph_path.write_text(graph.to_json())
    head = find_head(network)
    return {
        "network_path": str(network_path),
        "onnx_path": str(onnx_path),
        "operator_graph_path": str(graph_path),
        "input_shape": list(network.input_shape),
        "outputs": head.outputs if head.is_row else 0,
        "is_classifier": network.is_classifier,
        "parameters": network.parameter_count(),
        "macs": graph.macs(),
        "onnx_size_bytes": export.onnx_size_bytes(onnx),
        "size_is_free": network.size_is_free,
        "size_note": network.size_note,
        "erased": list(network.erased),
    }


def _check_same(network: Network, reopened: Network) -> None:
    """Searches start from the written file, so it must be the network that was read."""
    images = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = network(images), reopened.eval()(images)
    scale = max(float(expected.abs().max()), 1e-6)
    if expected.shape != found.shape or float((expected - found).abs().max()) > _TOLERANCE * scale:
        raise IntakeError("unsupported", "the network does not survive being written and read again; please report this", "model")
    if replace(network, graph=reopened.graph) != reopened:
        raise IntakeError("unsupported", "the network's facts do not survive being written; please report this", "model")
