"""Turns every error into a status with details, in one place; what was not foreseen is INTERNAL and only logged."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from service.errors import brief, describe_error, to_status
from service.interceptors.request_id import HEADER, current_request_id
from service.interceptors.wrapping import Layer, remade

if TYPE_CHECKING:
    from service.interceptors.wrapping import Handler

_LOG = logging.getLogger("paretopress.errors")
DETAILS_HEADER = "grpc-status-details-bin"


class ErrorInterceptor(Layer):
    """The only place that aborts a call."""

    def replaced(self, handler: Handler, method: str) -> Handler:
        """A handler that translates what the other one raises."""

        async def unary(inner: Any, request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            try:
                return await inner(request, context)
            except aio.AbortError:
                raise
            except Exception as error:
                await _abort(method, error, context)

        async def stream(inner: Any, request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                async for response in inner(request, context):
                    yield response
            except aio.AbortError:
                raise
            except Exception as error:
                await _abort(method, error, context)

        return remade(handler, unary, stream)


async def _abort(method: str, error: Exception, context: aio.ServicerContext[Any, Any]) -> None:
    facts, request_id = describe_error(error), current_request_id.get()
    if facts.code is grpc.StatusCode.INTERNAL:
        _LOG.exception("%s failed [%s]", method, request_id)
    elif facts.internal:
        _LOG.warning("%s refused [%s]: %s", method, request_id, facts.internal)
    details = to_status(facts, request_id).SerializeToString()
    trailing = ((DETAILS_HEADER, details), (HEADER, request_id))
    await context.abort(facts.code, brief(facts.message), trailing)
