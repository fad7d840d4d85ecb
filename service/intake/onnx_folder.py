"""An ONNX model whose weights lie in files beside it becomes one file, in a sandbox child."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.intake.errors import IntakeError
from service.intake.sandbox import run_in_sandbox

_NAME = "single.onnx"


def single_file(path: Path, scratch: Path) -> Path:
    """One file in ``scratch`` with everything in it; only files of the model's own folder are read.

    Raises:
        IntakeError: it is no ONNX model, or refers to files that are not there.
        SandboxError: reading it took too much, or crashed.
    """
    arguments = {"path": str(path.resolve())}
    run_in_sandbox("service.intake.onnx_folder:write_single_file", arguments, scratch=scratch, readable=[path.parent])
    return scratch / _NAME


def write_single_file(path: str) -> dict[str, Any]:
    """Entry point in the child."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        onnx.save_model(onnx.load(path), _NAME)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise IntakeError("unsupported", f"the ONNX model cannot be read: {error}", "model") from error
    return {}
