"""What the image is made of; `benchmarks/promises_image.py` builds it and uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.dockerfile import Context, instructions

ROOT = Path(__file__).parent.parent
DOCKERFILE = instructions((ROOT / "deploy" / "Dockerfile").read_text())


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("service/server.py", True),
        ("paretopress/cli/app.py", True),
        ("deploy/requirements.py", True),
        ("deploy/README.md", False),
        ("service/store/__pycache__/schema.cpython-311.pyc", False),
        (".git/config", False),
        (".venv/bin/python", False),
        ("tests/conftest.py", False),
        ("data.db", False),
    ],
)
def test_the_context_is_what_the_image_needs(path: str, taken: bool) -> None:
    assert Context.of(ROOT).takes(Path(path)) == taken


def test_everything_that_is_copied_is_there() -> None:
    sources = [source for one in DOCKERFILE if one.word == "COPY" for source in one.rest.split()[:-1]]
    assert {"pyproject.toml", "service", "search", "techniques", "hw_models", "paretopress"} <= set(sources)
    assert all(list(Context.of(ROOT).files(source)) for source in sources)


def test_what_is_installed_comes_from_the_project() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "requirements.py"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    lines = done.stdout.splitlines()
    assert any(line.startswith("grpcio>=") for line in lines), "of the client"
    assert any(line.startswith("lightgbm==") for line in lines), "of the server"
    torch = {line.partition("==")[0] for line in lines if line.startswith("torch")}
    assert torch == {"torch", "torchvision"}, "what the Dockerfile's grep takes from torch's own index"


def test_an_instruction_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(ValueError, match="ONBUILD"):
        instructions("FROM a\nONBUILD RUN b\n")
