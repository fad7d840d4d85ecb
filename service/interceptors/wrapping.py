"""Wraps all four kinds of gRPC handlers with one asynchronous context manager, so that an interceptor is a few lines."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

if TYPE_CHECKING:  # generic in the type stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]


def remade(
    handler: Handler,
    unary: Callable[[Any, Any, Any], Awaitable[Any]],
    stream: Callable[[Any, Any, Any], AsyncIterator[Any]],
    decode: Callable[[bytes], Any] | None = None,
) -> Handler:
    """A handler of the same kind around another one, which ``unary`` or ``stream`` get as their first argument.

    Args:
        unary: answers ``(inner, request or requests, context)`` with one response.
        stream: yields the responses; its ``inner`` does so too.
        decode: instead of the handler's own.
    """
    words = {False: "unary", True: "stream"}
    kind = f"{words[handler.request_streaming]}_{words[handler.response_streaming]}"
    inner: Any = getattr(handler, kind)
    if handler.response_streaming and inspect.iscoroutinefunction(inner):
        inner = partial(_written, inner)
    around = stream if handler.response_streaming else unary
    make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(partial(around, inner), decode or handler.request_deserializer, handler.response_serializer)


async def _written(inner: Any, request: Any, context: Any) -> AsyncIterator[Any]:
    """A stream that writes to the context itself, as gRPC's health service does: it yields nothing."""
    await inner(request, context)
    yielded: tuple[Any, ...] = ()
    for response in yielded:
        yield response


class WrappingInterceptor(aio.ServerInterceptor, ABC):  # type: ignore[type-arg]
    """Runs `around` around every call; exceptions of the call are raised inside it."""

    @abstractmethod
    def around(self, method: str, context: aio.ServicerContext[Any, Any]) -> AbstractAsyncContextManager[None]:
        """What happens around one call of ``/package.Service/Method``."""

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Replace the handler by one that is wrapped."""
        handler = await continuation(handler_call_details)
        return None if handler is None else self._wrap(handler, handler_call_details.method)

    def _wrap(self, handler: Handler, method: str) -> Handler:
        async def unary(inner: Any, request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            async with self.around(method, context):
                return await inner(request, context)

        async def stream(inner: Any, request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with self.around(method, context):
                async for response in inner(request, context):
                    yield response

        return remade(handler, unary, stream)
