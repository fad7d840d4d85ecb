"""A request that is no message of the contract is INVALID_ARGUMENT, as any other bad request; gRPC itself would say INTERNAL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from service.errors import MalformedRequestError
from service.interceptors.wrapping import remade

if TYPE_CHECKING:
    from service.interceptors.wrapping import Continuation, Handler


class _Malformed:
    """Stands for a request until the call is inside the error translation."""

    def __init__(self, error: DecodeError) -> None:
        self.error = error


class DecodingInterceptor(aio.ServerInterceptor):  # type: ignore[type-arg]
    """Stands right inside the error translation: whoever is further in sees sound messages only."""

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Replace the handler by one that checks what was decoded."""
        handler = await continuation(handler_call_details)
        return None if handler is None else _checked(handler)


def _checked(handler: Handler) -> Handler:
    sound = _sound_stream if handler.request_streaming else _sound

    async def unary(inner: Any, request: Any, context: Any) -> Any:
        return await inner(sound(request), context)

    async def stream(inner: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        async for response in inner(sound(request), context):
            yield response

    return remade(handler, unary, stream, _tolerant(handler.request_deserializer))


def _tolerant(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if decode is None:
        return None

    def decoded(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            return _Malformed(error)

    return decoded


def _sound(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise MalformedRequestError("the request's bytes are no message of this call; was the client made from other protos?")
    return request


async def _sound_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _sound(request)
