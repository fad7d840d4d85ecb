"""Turns every error into a status with details, in one place; what was not foreseen is INTERNAL and only logged."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

from service.errors import brief, describe_error, to_status
from service.interceptors.request_id import HEADER, current_request_id
from service.interceptors.wrapping import WrappingInterceptor

_LOG = logging.getLogger("paretopress.errors")
DETAILS_HEADER = "grpc-status-details-bin"


class ErrorInterceptor(WrappingInterceptor):
    """The only place that aborts a call."""

    @asynccontextmanager
    async def around(self, method: str, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Translate what the call raises."""
        try:
            yield
        except aio.AbortError:
            raise
        except Exception as error:
            facts, request_id = describe_error(error), current_request_id.get()
            if facts.code is grpc.StatusCode.INTERNAL:
                _LOG.exception("%s failed [%s]", method, request_id)
            elif facts.internal:
                _LOG.warning("%s refused [%s]: %s", method, request_id, facts.internal)
            details = to_status(facts, request_id).SerializeToString()
            trailing = ((DETAILS_HEADER, details), (HEADER, request_id))
            await context.abort(facts.code, brief(facts.message), trailing)
