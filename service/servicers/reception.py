"""The way of an upload, the same for models and datasets: received, or known already; opened once; stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from service.converters.inputs import DatasetRequest, ModelUpload
from service.errors import AlreadyExistsError
from service.intake.errors import IntakeError, SandboxError
from service.servicers.uploads import Intakes, receive
from service.store.input_store import InputStore, NewInput, StoredInput
from service.store.requests import fingerprint
from service.store.upload_store import UploadSpec, UploadStore

RequestT = TypeVar("RequestT", bound=ModelUpload | DatasetRequest)


class Reception(Generic[RequestT]):
    """Takes uploads of one kind; belongs to one event loop.

    Args:
        open_file: what intake finds out about a whole file.
    """

    def __init__(self, inputs: InputStore, uploads: UploadStore, open_file: Callable[[Path, RequestT], Mapping[str, Any]]) -> None:
        self._inputs = inputs
        self._uploads = uploads
        self._open_file = open_file
        self._intakes = Intakes()

    async def take(
        self, metadata: Any, request: RequestT, upload: UploadSpec, chosen_id: str, requests: AsyncIterator[Any]
    ) -> StoredInput:
        """What the upload becomes; its chunks are only read where they are needed. The same bytes, to be read in the same way, are
        the resource that they were before, unless another id or title is asked for.

        Args:
            metadata: of the first message; ``request`` and ``upload`` are what it says.
            chosen_id: empty where the server chose it.

        Raises:
            AlreadyExistsError: the name is taken.
            ServiceError: see `UploadStore.begin` and `receive`; IntakeError, SandboxError: the file is refused.
        """
        offset = metadata.upload.offset
        metadata.upload.ClearField("offset")  # a resumed upload is the same request
        digest = fingerprint(metadata)
        known = await asyncio.to_thread(self._inputs.recall, request.project, metadata.request_id, digest)
        if known is not None:
            return known
        await self.check_name(request.name, chosen_id)
        progress = await asyncio.to_thread(self._uploads.begin, upload, offset)
        if progress.resource:
            return await asyncio.to_thread(self._inputs.get, progress.resource)
        path = self._path(upload)
        if self._intakes.is_running(path):
            return await self._intakes.join(path)
        taking_in = (self._take_in, request, upload, metadata.request_id, digest)
        bytes_and_reading = (upload.project, upload.sha256, request.format, request.options_sha256)
        same = await asyncio.to_thread(self._inputs.find_same, *bytes_and_reading)
        if same is not None and not chosen_id and request.display_name in ("", same.display_name):
            await asyncio.to_thread(self._uploads.finish, upload, same.name)
            return same
        if self._intakes.is_running(path):  # another stream of the same upload, while this one looked
            return await self._intakes.join(path)
        if same is not None:
            return await self._intakes.run(path, *taking_in, same.facts)
        with self._uploads.writing(upload):
            await receive(self._uploads, upload, offset, requests, path)
            return await self._intakes.run(path, *taking_in)

    async def check_name(self, name: str, chosen_id: str) -> None:
        """Refuse a chosen name that is taken, before anything is sent or read.

        Raises:
            AlreadyExistsError: it is.
        """
        if chosen_id and await asyncio.to_thread(self._inputs.find, name) is not None:
            raise AlreadyExistsError(f"{name} exists; choose another id or delete it first")

    def _take_in(
        self, request: RequestT, upload: UploadSpec, request_id: str, digest: str, known: Mapping[str, Any] | None = None
    ) -> StoredInput:
        try:
            facts = known or {**self._open_file(self._path(upload), request), "options_sha256": request.options_sha256}
        except (IntakeError, SandboxError):
            self._uploads.discard(upload)
            raise
        new = NewInput(request.name, request.project, request.display_name, request.format, upload.sha256, upload.size_bytes, facts)
        stored = self._inputs.add(new, request_id, digest)
        self._uploads.finish(upload, stored.name)
        return stored

    def _path(self, upload: UploadSpec) -> Path:
        return self._uploads.path(upload.project, upload.kind, upload.upload_id)
