"""Models come in here: the calling process looks at the options and the size, a sandbox child opens the file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from service.intake.errors import IntakeError
from service.intake.limits import IntakeLimits, check_file
from service.intake.model_properties import ModelProperties
from service.intake.sandbox import SandboxLimits, run_in_sandbox

ModelFormat = Literal["pt2", "onnx", "architecture"]
MAX_SIDE = 4096
_LIMITS = SandboxLimits(wall_time_s=900, cpu_time_s=1800)
"""Tracing a deep network takes a minute of CPU, on a busy machine several of wall time."""


@dataclass(frozen=True)
class ModelOptions:
    """How to build an architecture before its weights are loaded; only for format ``architecture``.

    Attributes:
        architecture: a torchvision name such as ``resnet18``, or ``timm/NAME``.
        channels, height, width: of the input; 0 takes the architecture's usual ones.
        num_classes: outputs of the head; 0 takes 1000.
    """

    architecture: str = ""
    channels: int = 0
    height: int = 0
    width: int = 0
    num_classes: int = 0


@dataclass(frozen=True)
class ModelFacts(ModelProperties):
    """What was found in a model that is accepted; the files lie in the scratch folder.

    Attributes:
        network_path: the canonical ``.pt2`` that searches start from.
        onnx_path: the original through our own exporter, stripped.
        operator_graph_path: JSON for predictions without opening the model.
    """

    network_path: Path
    onnx_path: Path
    operator_graph_path: Path

    @staticmethod
    def from_json(data: dict[str, Any]) -> ModelFacts:
        """Read what the sandbox child answered."""
        network, onnx, graph = (Path(data[name]) for name in ("network_path", "onnx_path", "operator_graph_path"))
        return ModelFacts(network_path=network, onnx_path=onnx, operator_graph_path=graph, **ModelProperties.values_of(data))


def import_model(
    upload_path: Path,
    format: ModelFormat,
    options: ModelOptions | None = None,
    *,
    scratch: Path,
    limits: IntakeLimits | None = None,
    sandbox: SandboxLimits | None = None,
) -> ModelFacts:
    """Open an upload in a sandbox and leave the canonical network, its ONNX file and its operator graph in ``scratch``.

    Raises:
        IntakeError: bad options, a pickled file, or a network that cannot be taken; says what and where.
        SandboxError: the reader ran out of time or memory, or crashed.
    """
    options = options or ModelOptions()
    _check_options(format, options)
    limits = limits or IntakeLimits()
    check_file(upload_path, limits.model_bytes, "model")
    sandbox = sandbox or _LIMITS
    arguments = {
        "upload_path": str(upload_path.resolve()),
        "format": format,
        "options": asdict(options),
        "limits": asdict(limits),
        "scratch": str(scratch.resolve()),
    }
    return ModelFacts.from_json(
        run_in_sandbox("service.intake.model_readers:read_model", arguments, sandbox, scratch, [upload_path])
    )


def _check_options(format: ModelFormat, options: ModelOptions) -> None:
    if format not in get_args(ModelFormat):
        raise IntakeError("bad_option", f"format must be one of {list(get_args(ModelFormat))}, got {format!r}", "format")
    if format != "architecture":
        if options != ModelOptions():
            raise IntakeError("bad_option", f"options describe an architecture; a {format} file says it all itself", "architecture")
        return
    if not options.architecture:
        raise IntakeError(
            "bad_option", "architecture: name a torchvision architecture, such as resnet18, or timm/NAME", "architecture"
        )
    sizes = {"channels": 16, "height": MAX_SIDE, "width": MAX_SIDE, "num_classes": 100_000}
    for name, top in sizes.items():
        if not 0 <= getattr(options, name) <= top:
            raise IntakeError("bad_option", f"{name} must be between 0 and {top}, got {getattr(options, name)}", name)
