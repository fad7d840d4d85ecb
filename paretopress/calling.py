"""How the client calls: it repeats what the server did not hear, asks for page after page, and goes on with broken uploads."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc

from paretopress.errors import RequestRefusedError, ServerUnavailableError, from_rpc_error
from paretopress.transfer import Progress, chunks, describe_file
from paretopress.v1 import upload_pb2

FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 3.0
ResultT = TypeVar("ResultT")
OnRetry = Callable[[RequestRefusedError, float], None]


class Caller:
    """Calls on behalf of a project, each repeated for ``retry_s`` seconds."""

    def __init__(self, project: str, retry_s: float, on_retry: OnRetry | None = None) -> None:
        self.project = project
        self._retry_s = retry_s
        self._on_retry = on_retry or (lambda refused, left_s: None)

    def _upload(
        self,
        path: Path,
        metadata: Any,
        request_type: Callable[..., Any],
        upload: Callable[[Iterator[Any]], Any],
        query: Callable[[upload_pb2.QueryUploadRequest], upload_pb2.UploadStatus],
        progress: Progress | None,
    ) -> Any:
        metadata.upload.CopyFrom(describe_file(path, new_request_id()))
        begun = False

        def attempt() -> Any:
            nonlocal begun
            if begun:
                metadata.upload.offset = self._committed(query, metadata.upload.upload_id)
            begun = True

            def messages() -> Iterator[Any]:
                yield request_type(metadata=metadata)
                for chunk in chunks(path, metadata.upload.offset, progress):
                    yield request_type(chunk=chunk)

            return upload(messages())

        return self._retry(attempt)

    def _committed(self, query: Callable[[upload_pb2.QueryUploadRequest], upload_pb2.UploadStatus], upload_id: str) -> int:
        try:
            status = query(upload_pb2.QueryUploadRequest(parent=self.project, upload_id=upload_id))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return 0
            raise
        return status.committed_size_bytes

    def _pages(self, method: Callable[[Any], Any], request: Any, field: str) -> Iterator[Any]:
        while True:
            page = self._call(method, request)
            yield from getattr(page, field)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _call(self, method: Callable[[Any], ResultT], request: Any) -> ResultT:
        return self._retry(lambda: method(request))

    def _retry(self, attempt: Callable[[], ResultT]) -> ResultT:
        """Repeat what the server did not hear, with growing pauses; the server's own answers are final."""
        deadline, pause_s = time.monotonic() + self._retry_s, FIRST_PAUSE_S
        while True:
            try:
                return attempt()
            except grpc.RpcError as error:
                refused: RequestRefusedError = from_rpc_error(error)
                pause_s = max(pause_s, refused.retry_after_s or 0.0)
                if not _is_worth_repeating(refused) or time.monotonic() + pause_s > deadline:
                    raise refused from error
                self._on_retry(refused, deadline - time.monotonic())
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _is_worth_repeating(refused: RequestRefusedError) -> bool:
    """An upload whose broken stream the server has not let go of yet can be gone on with in a moment."""
    may_pass = isinstance(refused, ServerUnavailableError) or refused.reason == "UPLOAD_CONFLICT"
    return may_pass or refused.retry_after_s is not None


def new_request_id() -> str:
    """A fresh id that makes repetitions of a request harmless."""
    return uuid.uuid4().hex
