"""A request that is no message of the contract is INVALID_ARGUMENT, as any other bad request; gRPC itself would say INTERNAL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from service.errors import MalformedRequestError
from service.interceptors.wrapping import responses

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
    decode = _tolerant(handler.request_deserializer)
    if handler.request_streaming:
        streamed: Any = handler.stream_stream if handler.response_streaming else handler.stream_unary
        if handler.response_streaming:

            async def both(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
                async for response in responses(streamed(_sound_stream(requests), context)):
                    yield response

            return grpc.stream_stream_rpc_method_handler(both, decode, handler.response_serializer)

        async def collect(requests: AsyncIterator[Any], context: Any) -> Any:
            return await streamed(_sound_stream(requests), context)

        return grpc.stream_unary_rpc_method_handler(collect, decode, handler.response_serializer)
    if handler.response_streaming:
        produce: Any = handler.unary_stream

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async for response in responses(produce(_sound(request), context)):
                yield response

        return grpc.unary_stream_rpc_method_handler(stream, decode, handler.response_serializer)
    answer: Any = handler.unary_unary

    async def unary(request: Any, context: Any) -> Any:
        return await answer(_sound(request), context)

    return grpc.unary_unary_rpc_method_handler(unary, decode, handler.response_serializer)


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
