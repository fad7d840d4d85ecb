"""ModelService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty

from paretopress.v1 import model_pb2, model_pb2_grpc, upload_pb2
from service.converters.inputs import ModelUpload, model_to_proto, model_upload_from_proto, upload_status_to_proto
from service.importing import Importer
from service.resources import ModelName, ProjectName
from service.servicers.reception import Reception
from service.servicers.uploads import first_metadata
from service.store.input_store import InputStore
from service.store.pages import PageRequest
from service.store.upload_store import UploadStore


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Thin: names and messages here, everything else in the stores and in intake."""

    def __init__(self, models: InputStore, uploads: UploadStore, importer: Importer) -> None:
        self._models = models
        self._uploads = uploads
        self._reception: Reception[ModelUpload] = Reception(models, uploads, importer.model)

    async def UploadModel(self, request_iterator: AsyncIterator[Any], context: Any) -> model_pb2.Model:
        """Receive, open, store."""
        metadata: model_pb2.UploadModelMetadata = await first_metadata(request_iterator)
        request = model_upload_from_proto(metadata)
        return model_to_proto(await self._reception.take(metadata, request, request.upload, metadata.model_id, request_iterator))

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
