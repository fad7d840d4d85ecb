"""ModelService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from google.protobuf.empty_pb2 import Empty

from paretopress.v1 import model_pb2, model_pb2_grpc, upload_pb2
from service.converters.inputs import ModelUpload, model_to_proto, model_upload_from_proto, upload_status_to_proto
from service.errors import AlreadyExistsError
from service.importing import Importer
from service.intake.errors import IntakeError, SandboxError
from service.resources import ModelName, ProjectName
from service.servicers.uploads import Intakes, first_metadata, receive
from service.store.input_store import InputStore, NewInput, StoredInput
from service.store.pages import PageRequest
from service.store.requests import fingerprint
from service.store.upload_store import UploadStore


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Thin: names and messages here, everything else in the stores and in intake."""

    def __init__(self, models: InputStore, uploads: UploadStore, importer: Importer) -> None:
        self._models = models
        self._uploads = uploads
        self._importer = importer
        self._intakes = Intakes()

    async def UploadModel(self, request_iterator: AsyncIterator[Any], context: Any) -> model_pb2.Model:
        """Receive, open, store."""
        metadata: model_pb2.UploadModelMetadata = await first_metadata(request_iterator)
        request = model_upload_from_proto(metadata)
        offset = metadata.upload.offset
        metadata.upload.ClearField("offset")  # a resumed upload is the same request
        digest = fingerprint(metadata)
        known = await asyncio.to_thread(self._models.recall, request.project, metadata.request_id, digest)
        if known is not None:
            return model_to_proto(known)
        if metadata.model_id and await asyncio.to_thread(self._models.find, request.name) is not None:
            raise AlreadyExistsError(f"{request.name} exists; choose another id or delete it first")
        progress = await asyncio.to_thread(self._uploads.begin, request.upload, offset)
        if progress.resource:
            return model_to_proto(await asyncio.to_thread(self._models.get, progress.resource))
        taking_in = (self._take_in, request, metadata.request_id, digest)
        path = self._uploads.path(request.project, "model", request.upload.upload_id)
        if self._intakes.is_running(path):
            return model_to_proto(await self._intakes.join(path))
        same = await asyncio.to_thread(self._same, request)
        if same is not None:
            return model_to_proto(await self._intakes.run(path, *taking_in, same.facts))
        with self._uploads.writing(request.upload):
            await receive(self._uploads, request.upload, offset, request_iterator, path)
            return model_to_proto(await self._intakes.run(path, *taking_in))

    def _same(self, request: ModelUpload) -> StoredInput | None:
        upload = request.upload
        return self._models.find_same(upload.project, upload.sha256, request.format, request.options_sha256)

    def _take_in(self, request: ModelUpload, request_id: str, digest: str, known: Mapping[str, Any] | None = None) -> StoredInput:
        upload = request.upload
        try:
            facts = known or self._open(request)
        except (IntakeError, SandboxError):
            self._uploads.discard(upload)
            raise
        new = NewInput(request.name, request.project, request.display_name, request.format, upload.sha256, upload.size_bytes, facts)
        stored = self._models.add(new, request_id, digest)
        self._uploads.finish(upload, stored.name)
        return stored

    def _open(self, request: ModelUpload) -> Mapping[str, Any]:
        path = self._uploads.path(request.project, "model", request.upload.upload_id)
        return {**self._importer.model(path, request), "options_sha256": request.options_sha256}

    async def QueryModelUpload(self, request: upload_pb2.QueryUploadRequest, context: Any) -> upload_pb2.UploadStatus:
        """Committed size."""
        project = ProjectName.from_name(request.parent, "parent").project
        return upload_status_to_proto(await asyncio.to_thread(self._uploads.progress, project, "model", request.upload_id))

    async def GetModel(self, request: model_pb2.GetModelRequest, context: Any) -> model_pb2.Model:
        """One by name."""
        name = ModelName.from_name(request.name).name
        return model_to_proto(await asyncio.to_thread(self._models.get, name))

    async def ListModels(self, request: model_pb2.ListModelsRequest, context: Any) -> model_pb2.ListModelsResponse:
        """A page, newest first."""
        parent = ProjectName.from_name(request.parent, "parent")
        asked = PageRequest.parse(request.page_size, request.page_token, f"models of {parent.name}")
        page = await asyncio.to_thread(self._models.list, parent.project, asked)
        return model_pb2.ListModelsResponse(models=map(model_to_proto, page.items), next_page_token=page.next_page_token)

    async def DeleteModel(self, request: model_pb2.DeleteModelRequest, context: Any) -> Empty:
        """Forget one."""
        await asyncio.to_thread(self._models.delete, ModelName.from_name(request.name).name, request.etag)
        return Empty()
