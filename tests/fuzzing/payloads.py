"""Pickles that leave a trace when they are loaded: a folder called like the canary, made in every way a pickle can call."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path

CANARY = "canary-sang"
"""Relative, so that it lands in the scratch folder of whoever loads it, where even a locked-up child may write."""


class _Payload:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def pickles(outside: Path) -> list[bytes]:
    """One per protocol and way of calling, half of them aimed at ``outside``, an absolute path."""
    found = []
    for path in (CANARY, str(outside)):
        found += [pickle.dumps(_Payload(path), protocol) for protocol in range(6)]
        text = path.encode()
        found += [
            b"(V" + text + b"\nios\nmkdir\n.",  # INST
            b"(cos\nmkdir\nV" + text + b"\no.",  # OBJ
            b"cbuiltins\neval\n(V" + f"__import__('os').mkdir({path!r})".encode() + b"\ntR.",
            b"cbuiltins\nexec\n(V" + f"import os; os.mkdir({path!r})".encode() + b"\ntR.",
            b"cposix\nsystem\n(Vmkdir " + text + b"\ntR.",
            b"\x80\x02}U\x04data" + pickle.dumps(_Payload(path), 2)[2:-1] + b"s.",  # inside a dictionary
        ]
    return found


def code(outside: Path) -> list[str]:
    """Expressions that do the same, for texts that a reader might evaluate."""
    return [f"__import__('os').mkdir({path!r})" for path in (CANARY, str(outside))]


def torch_saved(payload: bytes) -> bytes:
    """A zip as ``torch.save`` writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def traces(folders: Sequence[Path], outside: Path) -> list[Path]:
    """Where a canary has sung."""
    return [path for folder in folders for path in folder.rglob(CANARY)] + ([outside] if outside.exists() else [])
