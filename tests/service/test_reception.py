"""Two streams of one upload whose bytes are known already: it is taken in once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from service.servicers.reception import Reception


class _Inputs:
    """An `InputStore` that knows the bytes, and takes a moment to say so."""

    def __init__(self) -> None:
        self.added = 0

    def recall(self, *_: object) -> None:
        return None

    find = recall

    def find_same(self, *_: object) -> Any:
        time.sleep(0.1)
        return SimpleNamespace(name="other", display_name="", facts={})

    def add(self, *_: object) -> Any:
        time.sleep(0.1)
        self.added += 1
        return SimpleNamespace(name="mine")


def test_it_is_taken_in_once() -> None:
    inputs = _Inputs()
    uploads = SimpleNamespace(
        begin=lambda *_: SimpleNamespace(resource=""),
        path=lambda *_: Path("upload"),
        finish=lambda *_: None,
        discard=lambda *_: None,
    )
    metadata = SimpleNamespace(
        upload=SimpleNamespace(offset=0, ClearField=lambda _: None),
        request_id="",
        SerializeToString=lambda **_: b"",
        DESCRIPTOR=None,
    )
    request: Any = SimpleNamespace(project="p", name="mine", format="onnx", options_sha256="", display_name="a title")
    upload: Any = SimpleNamespace(project="p", kind="model", upload_id="u", sha256="s", size_bytes=1)

    async def twice() -> list[Any]:
        reception: Reception[Any] = Reception(inputs, uploads, lambda *_: {})  # type: ignore[arg-type]
        stream: Any = None
        return await asyncio.gather(*(reception.take(metadata, request, upload, "mine", stream) for _ in range(2)))

    assert [stored.name for stored in asyncio.run(twice())] == ["mine", "mine"]
    assert inputs.added == 1
