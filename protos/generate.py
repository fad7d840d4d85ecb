"""Generates the Python stubs of every proto into ``paretopress/v1``; ``--check`` only says whether they are up to date."""

from __future__ import annotations

import argparse
import filecmp
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools

PROTO_ROOT = Path(__file__).resolve().parent
REPOSITORY = PROTO_ROOT.parent
PACKAGE = Path("paretopress/v1")
_INIT = '"""Generated from ``protos/paretopress/v1`` by ``make proto``; do not edit."""\n'


def generate(output_root: Path) -> None:
    """Write the stubs (messages, services and their types) below ``output_root``.

    Raises:
        RuntimeError: the protos do not compile; carries the compiler's words.
    """
    protos = sorted(str(path.relative_to(PROTO_ROOT)) for path in (PROTO_ROOT / PACKAGE).glob("*.proto"))
    (output_root / PACKAGE).mkdir(parents=True, exist_ok=True)
    outputs = [f"--{kind}_out={output_root}" for kind in ("python", "grpc_python", "mypy")]
    command = [sys.executable, "-m", "grpc_tools.protoc", *include_options(PROTO_ROOT)]
    plugins = [f"--plugin=protoc-gen-{name}={_plugin(name)}" for name in ("mypy", "mypy_grpc")]
    command += [*plugins, *outputs, f"--mypy_grpc_out={output_root}", *protos]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr)
    (output_root / PACKAGE / "__init__.py").write_text(_INIT)


def include_options(root: Path) -> list[str]:
    """Where the compiler finds the protos below ``root`` and what they import: ours, which has Google's, and its own."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    return [f"-I{path}" for path in dict.fromkeys((root, PROTO_ROOT, well_known))]


def _plugin(name: str) -> str:
    path = Path(sys.executable).parent / f"protoc-gen-{name}"
    return str(path) if path.exists() else shutil.which(f"protoc-gen-{name}") or str(path)


def drift() -> list[str]:
    """Names of committed stubs that differ from what the protos give, including missing and left-over ones."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh, committed = Path(folder) / PACKAGE, REPOSITORY / PACKAGE
        names = {p.name for root in (fresh, committed) for p in root.iterdir() if p.suffix in (".py", ".pyi")}
        _, changed, missing = filecmp.cmpfiles(fresh, committed, sorted(names), shallow=False)
        return sorted([*changed, *missing])


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the committed stubs are out of date")
    if not parser.parse_args().check:
        for left_over in (REPOSITORY / PACKAGE).glob("*_pb2*"):
            left_over.unlink()
        generate(REPOSITORY)
        return 0
    stale = drift()
    if stale:
        tools = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("grpcio-tools", "mypy-protobuf"))
        print(f"stubs differ from the protos ({tools}): {', '.join(stale)}; run `make proto`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
