"""What the client raises: a refused call with every bad field, or a transfer that could not be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2


class ClientError(Exception):
    """Root of everything that the client raises on purpose."""


@dataclass(frozen=True)
class FieldProblem:
    """One bad field of a request (or place in a dataset), and what is wrong with it."""

    field: str
    description: str


class RequestRefusedError(ClientError):
    """The server refused a call.

    Attributes:
        code: gRPC status code.
        reason: machine-readable reason, such as ``INVALID_FIELDS``.
        problems: every bad field.
        metadata: what else the server says, such as ``problem_count``.
        request_id: to be named when asking the operator; the server's log has it.
        retry_after_s: when the server said after how many seconds the same call may succeed.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        problems: Iterable[FieldProblem] = (),
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.problems = tuple(problems)
        self.metadata = dict(metadata or {})
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    @property
    def hint(self) -> str:
        """What to do about it, in a sentence; empty where the message says it all."""
        return _REASON_HINTS.get(self.reason) or _HINTS.get(self.code, "")


class ServerUnavailableError(RequestRefusedError):
    """Nobody answers at the address."""


class TransferError(ClientError):
    """A file arrived incomplete or changed."""


_REASON_HINTS = {
    "SCOPE_TOO_NARROW": "take a token with more scope, or ask an administrator of the project for one",
    "QUOTA_EXCEEDED": "free some of the project's share, or have the server's quota raised",
    "RATE_LIMITED": "call less often, or have the server's limits raised",
}
_HINTS = {
    grpc.StatusCode.UNAUTHENTICATED: "give a good token in PARETOPRESS_TOKEN; an administrator makes one with `tokens create`",
    grpc.StatusCode.UNAVAILABLE: "is the server running? start one with `paretopress serve`, or name another with --address",
    grpc.StatusCode.NOT_FOUND: "the `list` commands show what there is",
    grpc.StatusCode.ALREADY_EXISTS: "choose another id, or delete the old one first",
    grpc.StatusCode.ABORTED: "get the resource again and repeat the call",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "send something smaller, or raise the server's limits",
    grpc.StatusCode.PERMISSION_DENIED: "upload the data instead, or have its folder added to PARETOPRESS_DATASET_ROOTS",
    grpc.StatusCode.UNIMPLEMENTED: "the server is older than this client: upgrade it",
    grpc.StatusCode.INTERNAL: "the server's log has the details under the request id",
}
_DETAILS = "grpc-status-details-bin"


def from_rpc_error(error: grpc.RpcError) -> RequestRefusedError:
    """Read a failed call's status and its ``google.rpc`` details."""
    code, message = error.code(), error.details() or ""
    trailing: dict[str, Any] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
    status = status_pb2.Status.FromString(trailing.get(_DETAILS, b""))
    reason, request_id = "", ""
    problems: list[FieldProblem] = []
    metadata: dict[str, str] = {}
    retry_after_s: float | None = None
    for detail in status.details:
        info, request, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo(), error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(request):
            request_id = request.request_id
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
        elif detail.Unpack(bad):
            problems += [FieldProblem(v.field, v.description) for v in bad.field_violations]
    if code is grpc.StatusCode.UNIMPLEMENTED:
        message = f"the server does not know this call ({message})"
    kind = ServerUnavailableError if code is grpc.StatusCode.UNAVAILABLE else RequestRefusedError
    return kind(code, message, reason, problems, metadata, request_id, retry_after_s)
