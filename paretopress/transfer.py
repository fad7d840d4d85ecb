"""Files over streams: uploads that go on where they broke off, downloads that are checked against their digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from paretopress.errors import TransferError
from paretopress.v1 import search_pb2, upload_pb2

CHUNK_BYTES = 512 << 10
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def describe_file(path: Path, upload_id: str) -> upload_pb2.UploadHeader:
    """Size and sha256 of a file about to be uploaded."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return upload_pb2.UploadHeader(upload_id=upload_id, size_bytes=path.stat().st_size, sha256=digest)


def chunks(path: Path, offset: int, progress: Progress | None) -> Iterator[bytes]:
    """The file's bytes from an offset on."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            offset += len(chunk)
            if progress:
                progress(offset, size)


class Download:
    """A file on its way: written beside its place, renamed when its digest is right."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self._partial = target.with_name(f".{target.name}.part")
        self._partial.unlink(missing_ok=True)

    @property
    def offset(self) -> int:
        """Bytes that are here."""
        return self._partial.stat().st_size if self._partial.exists() else 0

    def receive(self, messages: Iterable[search_pb2.DownloadArtifactResponse], progress: Progress | None) -> None:
        """Append what comes, and put the file in its place.

        Raises:
            TransferError: it is incomplete, or its digest is not the announced one; nothing is left behind.
        """
        header = search_pb2.DownloadHeader()
        with self._partial.open("ab") as file:
            for message in messages:
                if message.WhichOneof("payload") == "header":
                    header = message.header
                    continue
                file.write(message.chunk)
                if progress:
                    progress(file.tell(), header.size_bytes)
        with self._partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != header.sha256:
            size = self.offset
            self._partial.unlink()
            raise TransferError(f"{self.target.name}: {size} bytes with sha256 {digest}, announced was {header.sha256}")
        os.replace(self._partial, self.target)
