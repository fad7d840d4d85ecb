"""Sends hostile calls to a real server over raw gRPC, and says how each was answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from tests.fuzzing.requests import HostileCall

DEADLINE_S = 20.0
_STREAM_DEADLINE_S = 0.5
_UNTYPED = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED)


@dataclass(frozen=True)
class Answer:
    """How a call was answered: the status, and the reason in its ``ErrorInfo``."""

    call: HostileCall
    code: grpc.StatusCode
    reason: str
    message: str

    @property
    def is_fine(self) -> bool:
        """An answer, or a typed refusal; a watched stream may stay open."""
        if self.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self.call.method.server_streaming
        return self.code is grpc.StatusCode.OK or (self.code not in _UNTYPED and self.reason not in ("", "SANDBOX_CRASH"))


def send_all(calls: Iterable[HostileCall], count: int, channel: grpc.Channel) -> Iterator[Answer]:
    """One after the other."""
    for call in islice(calls, count):
        yield send(call, channel)


def send(call: HostileCall, channel: grpc.Channel) -> Answer:
    """One call, as raw bytes."""
    try:
        _perform(call, channel)
    except grpc.RpcError as error:
        return Answer(call, error.code(), _reason(error), error.details() or "")
    return Answer(call, grpc.StatusCode.OK, "", "")


def _perform(call: HostileCall, channel: grpc.Channel) -> None:
    method, raw = call.method, call.messages
    if method.client_streaming:
        channel.stream_unary(call.path)(iter(raw), timeout=DEADLINE_S)
    elif method.server_streaming:
        stream: Any = channel.unary_stream(call.path)(raw[0], timeout=_STREAM_DEADLINE_S)
        for _ in islice(stream, 3):
            pass
        stream.cancel()
    else:
        channel.unary_unary(call.path)(raw[0], timeout=DEADLINE_S)


def _reason(error: Any) -> str:
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b""))
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return ""
