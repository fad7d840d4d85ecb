"""Checks the protos with buf: style, and that nothing breaks clients of the last release (``protos/released``).

buf is given compiled descriptors, so it never looks anything up in the network. ``--release v0.2.0`` commits to today's
protos: the descriptor of a release, against which all later ones are compared.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from protos.generate import PACKAGE, PROTO_ROOT, REPOSITORY, include_options

RELEASED = PROTO_ROOT / "released"
CONFIG = REPOSITORY / "buf.yaml"


def write_descriptor(path: Path, root: Path = PROTO_ROOT, comments: bool = False) -> None:
    """Compile every proto below ``root`` with all it imports into one ``FileDescriptorSet``.

    Raises:
        RuntimeError: the protos do not compile; carries the compiler's words.
    """
    names = sorted(str(proto.relative_to(root)) for proto in (root / PACKAGE).glob("*.proto"))
    options = ["--include_imports", *(["--include_source_info"] if comments else []), f"--descriptor_set_out={path}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *include_options(root), *options, *names]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr)


def last_release() -> Path:
    """Descriptor of the newest release, such as ``v0.1.0.binpb``."""
    return max(RELEASED.glob("v*.binpb"), key=lambda path: [int(number) for number in re.findall(r"\d+", path.stem)])


def complaints(root: Path = PROTO_ROOT) -> list[str]:
    """What buf says against the protos below ``root``: style, and changes that break clients of the last release."""
    with tempfile.TemporaryDirectory() as folder:
        current = Path(folder) / "current.binpb"
        write_descriptor(current, root, comments=True)
        return [*_buf("lint", str(current)), *_buf("breaking", str(current), "--against", str(last_release()))]


def _buf(*arguments: str) -> list[str]:
    program = Path(sys.executable).with_name("buf")
    command = [str(program), *arguments, "--config", str(CONFIG)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    said = (result.stdout + result.stderr).splitlines()
    return said or ([f"buf {arguments[0]} ended with {result.returncode}"] if result.returncode else [])


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", metavar="VERSION", help="write today's descriptor as the one of a release, such as v0.2.0")
    version = parser.parse_args().release
    if version:
        write_descriptor(RELEASED / f"{version}.binpb")
        return 0
    found = complaints()
    print(*found, sep="\n", file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
