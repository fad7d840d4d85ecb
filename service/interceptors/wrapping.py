"""Wraps all four kinds of gRPC handlers, so that what happens around calls is a few lines for each concern.

A layer costs every message of every stream a generator's turn, and memory for each stream that is open: there are few layers, and
the concerns that do nothing per message share one.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
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


class Layer(aio.ServerInterceptor, ABC):  # type: ignore[type-arg]
    """Replaces each handler once: gRPC asks again at every call."""

    def __init__(self) -> None:
        self._replaced: dict[str, tuple[Handler, Handler]] = {}

    @abstractmethod
    def replaced(self, handler: Handler, method: str) -> Handler:
        """What answers ``/package.Service/Method`` instead of a handler."""

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler's replacement; none where there is no such method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._replaced.get(method)
        if known is None or known[0] is not handler:
            known = self._replaced[method] = (handler, self.replaced(handler, method))
        return known[1]


class Concern(ABC):
    """Something that happens around every call."""

    @abstractmethod
    def around(self, method: str, context: aio.ServicerContext[Any, Any]) -> AbstractContextManager[None]:
        """Runs around one call of ``/package.Service/Method``; its exceptions are raised inside."""


class Surroundings(Layer):
    """Runs concerns around every call, the first one outermost."""

    def __init__(self, concerns: Sequence[Concern]) -> None:
        super().__init__()
        self._concerns = tuple(concerns)

    def replaced(self, handler: Handler, method: str) -> Handler:
        """The handler amid all concerns."""

        async def unary(inner: Any, request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            with self._around(method, context):
                return await inner(request, context)

        async def stream(inner: Any, request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            with self._around(method, context):
                async for response in inner(request, context):
                    yield response

        return remade(handler, unary, stream)

    @contextmanager
    def _around(self, method: str, context: aio.ServicerContext[Any, Any]) -> Iterator[None]:
        with ExitStack() as stack:
            for concern in self._concerns:
                stack.enter_context(concern.around(method, context))
            yield
