"""Wraps all four kinds of gRPC handlers with one asynchronous context manager, so that an interceptor is a few lines."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

if TYPE_CHECKING:  # generic in the type stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]


async def responses(answers: Any) -> AsyncIterator[Any]:
    """What a streaming handler yields; one that is a coroutine, as gRPC's health service, writes to the context itself."""
    if inspect.isawaitable(answers):
        await answers
        return
    async for response in answers:
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
        behaviour: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary
        streaming: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def unary(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            async with self.around(method, context):
                return await behaviour(request, context)

        async def stream(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with self.around(method, context):
                async for response in responses(streaming(request, context)):
                    yield response

        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
            return make(stream, handler.request_deserializer, handler.response_serializer)
        make_unary = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        return make_unary(unary, handler.request_deserializer, handler.response_serializer)
