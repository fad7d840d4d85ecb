"""A request that is no message of the contract is INVALID_ARGUMENT, as any other bad request; gRPC itself would say INTERNAL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from service.converters.chunks import UPLOADS, chunk_or
from service.errors import MalformedRequestError
from service.interceptors.wrapping import Layer, remade

if TYPE_CHECKING:
    from service.interceptors.wrapping import Handler


class _Malformed:
    """Stands for a request until the call is inside the error translation."""

    def __init__(self, error: DecodeError) -> None:
        self.error = error


class DecodingInterceptor(Layer):
    """Stands right inside the gate: whoever is further in sees sound messages only."""

    def replaced(self, handler: Handler, method: str) -> Handler:
        """A handler that checks what was decoded. The messages that it sends pass no generator of its own."""
        sound = _sound_stream if handler.request_streaming else _sound

        def checked(inner: Any, request: Any, context: Any) -> Any:
            return inner(sound(request), context)

        decode = handler.request_deserializer
        return remade(handler, checked, checked, _tolerant(chunk_or(decode) if decode and method in UPLOADS else decode))


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
