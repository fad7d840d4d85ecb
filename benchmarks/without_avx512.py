"""Runs a command as on a processor without AVX-512 and VNNI: ``python -m benchmarks.without_avx512 make bench-promises-demo``.

Linux on x86-64, as root. In a mount namespace of the command's own, ONNX Runtime's tests for AVX-512 say no and ``/proc/cpuinfo``
shows none; torch is told by its own variables. Clock, caches and memory stay this machine's. Nothing outside changes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime

_TORCH = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
_TEST = re.compile(rb"\x0f\xa2.{0,128}?(?:\x41\xf7[\xc0-\xc7]|\xf7[\xc0-\xc7])\x00\x00\x01\x00", re.DOTALL)
"""``cpuid`` and, soon behind it, a test of bit 16 of a register: AVX-512F in leaf 7."""
_TESTS = 2
"""In the library: of its kernels, and of what the kernels' callers ask."""


def hidden(library: bytes) -> bytes:
    """The library with those tests of no bit at all.

    Raises:
        ValueError: it has not as many as are known.
    """
    ends = [found.end() for found in _TEST.finditer(library)]
    if len(ends) != _TESTS:
        raise ValueError(
            f"ONNX Runtime's library has {len(ends)} tests for AVX-512 where {_TESTS} are known: not of a known version"
        )
    changed = bytearray(library)
    for end in ends:
        changed[end - 4 : end] = bytes(4)
    return bytes(changed)


def main() -> int:
    """``python -m benchmarks.without_avx512 COMMAND ...``: its status."""
    known = Path("/proc/cpuinfo").read_text()
    if len(sys.argv) < 2 or re.search(r"\b(?:avx_vnni|amx_)", known):
        print("usage: python -m benchmarks.without_avx512 COMMAND ...; not where there is AVX-VNNI or AMX: their tests stay")
        return 2
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so")
    with tempfile.TemporaryDirectory() as folder:
        other, processor = Path(folder) / library.name, Path(folder) / "cpuinfo"
        other.write_bytes(hidden(library.read_bytes()))
        processor.write_text(re.sub(r" avx512\w*", "", known))
        bind = 'mount --bind "$0" "$1" && mount --bind "$2" /proc/cpuinfo && shift 2 && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", bind, str(other), str(library), str(processor)]
        return subprocess.run([*command, *sys.argv[1:]], env={**os.environ, **_TORCH}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
