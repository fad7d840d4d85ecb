"""Uploads reach the sandbox from wherever they lie."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from service import importing
from service.importing import SandboxImporter
from service.intake.errors import IntakeError
from service.store.blobs import FsspecBlobStore


def test_a_file_on_another_disk_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_another_disk(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    seen: list[bytes] = []

    def read(upload: Path, *_: Any, **__: Any) -> Any:
        seen.append(upload.read_bytes())
        raise IntakeError("unreadable", "that is all")

    monkeypatch.setattr(os, "link", on_another_disk)
    monkeypatch.setattr(importing, "import_model", read)
    (tmp_path / "net.onnx").write_bytes(b"network")
    importer = SandboxImporter(FsspecBlobStore(str(tmp_path / "blobs")), tmp_path / "scratch")
    request: Any = type("Request", (), {"options": {}, "format": "onnx"})()
    with pytest.raises(IntakeError, match="that is all"):
        importer.model(tmp_path / "net.onnx", request)
    assert seen == [b"network"]
