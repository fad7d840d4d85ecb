"""DatasetService."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty

from paretopress.v1 import dataset_pb2, dataset_pb2_grpc, upload_pb2
from search.errors import FieldViolation
from service.converters.inputs import (
    DatasetRequest,
    dataset_request_from_proto,
    dataset_to_proto,
    dataset_upload_from_proto,
    upload_status_to_proto,
)
from service.errors import InvalidRequestError
from service.importing import Importer
from service.intake.limits import resolve_under_roots
from service.resources import DatasetName, ProjectName
from service.servicers.reception import Reception
from service.servicers.uploads import first_metadata
from service.store.input_store import InputStore, NewInput, StoredInput
from service.store.pages import PageRequest
from service.store.requests import fingerprint
from service.store.upload_store import UploadStore


class DatasetServicer(dataset_pb2_grpc.DatasetServiceServicer):
    """Thin: names and messages here, everything else in the stores and in intake."""

    def __init__(self, datasets: InputStore, uploads: UploadStore, importer: Importer, roots: Sequence[Path]) -> None:
        self._datasets = datasets
        self._uploads = uploads
        self._importer = importer
        self._reception: Reception[DatasetRequest] = Reception(datasets, uploads, importer.dataset)
        self._roots = tuple(roots)

    async def UploadDataset(self, request_iterator: AsyncIterator[Any], context: Any) -> dataset_pb2.Dataset:
        """Receive, read, store."""
        metadata: dataset_pb2.UploadDatasetMetadata = await first_metadata(request_iterator)
        request, upload = dataset_upload_from_proto(metadata)
        taken = await self._reception.take(metadata, request, upload, metadata.dataset_id, request_iterator)
        return dataset_to_proto(taken)

    async def ImportDataset(self, request: dataset_pb2.ImportDatasetRequest, context: Any) -> dataset_pb2.Dataset:
        """Read what lies under a configured root."""
        found: list[FieldViolation] = []
        parsed = dataset_request_from_proto(request, found)
        if found:
            raise InvalidRequestError(found)
        digest = fingerprint(request)
        known = await asyncio.to_thread(self._datasets.recall, parsed.project, request.request_id, digest)
        if known is None:
            await self._reception.check_name(parsed.name, request.dataset_id)
            known = await asyncio.to_thread(self._import, parsed, request.source_path, request.request_id, digest)
        return dataset_to_proto(known)

    def _import(self, request: DatasetRequest, source_path: str, request_id: str, digest: str) -> StoredInput:
        path = resolve_under_roots(source_path, self._roots)
        facts = self._importer.dataset(path, request)
        sha256, size = _file_digest(path) if path.is_file() else (facts["data_sha256"], 0)
        new = NewInput(request.name, request.project, request.display_name, request.format, sha256, size, facts)
        return self._datasets.add(new, request_id, digest, announced=False)

    async def QueryDatasetUpload(self, request: upload_pb2.QueryUploadRequest, context: Any) -> upload_pb2.UploadStatus:
        """Committed size."""
        project = ProjectName.from_name(request.parent, "parent").project
        return upload_status_to_proto(await asyncio.to_thread(self._uploads.progress, project, "dataset", request.upload_id))

    async def GetDataset(self, request: dataset_pb2.GetDatasetRequest, context: Any) -> dataset_pb2.Dataset:
        """One by name."""
        name = DatasetName.from_name(request.name).name
        return dataset_to_proto(await asyncio.to_thread(self._datasets.get, name))

    async def ListDatasets(self, request: dataset_pb2.ListDatasetsRequest, context: Any) -> dataset_pb2.ListDatasetsResponse:
        """A page, newest first."""
        parent = ProjectName.from_name(request.parent, "parent")
        asked = PageRequest.parse(request.page_size, request.page_token, f"datasets of {parent.name}")
        page = await asyncio.to_thread(self._datasets.list, parent.project, asked)
        datasets = map(dataset_to_proto, page.items)
        return dataset_pb2.ListDatasetsResponse(datasets=datasets, next_page_token=page.next_page_token)

    async def DeleteDataset(self, request: dataset_pb2.DeleteDatasetRequest, context: Any) -> Empty:
        """Forget one."""
        await asyncio.to_thread(self._datasets.delete, DatasetName.from_name(request.name).name, request.etag)
        return Empty()


def _file_digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
