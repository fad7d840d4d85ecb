from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

HEAVY = ("torch", "torchvision", "ray", "mlflow", "onnx", "onnxruntime", "optuna")


@dataclass(frozen=True)
class LightImport:
    """Modules that must not pull in what is heavy."""

    module: str
    forbidden: tuple[str, ...] = HEAVY


CASES = [
    LightImport("paretopress", (*HEAVY, "grpc", "numpy")),
    LightImport("paretopress.client", (*HEAVY, "numpy", "service")),
    LightImport("paretopress.cli.app", (*HEAVY, "numpy", "service", "search")),
    LightImport("service.server"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.module)
def test_importing_stays_light(case: LightImport) -> None:
    code = f"import sys, {case.module}; print(*[m for m in {case.forbidden!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
