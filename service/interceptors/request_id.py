"""Gives every call an id: the caller's ``x-request-id`` or a fresh one. Log lines and error details carry it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from grpc import aio

from service.interceptors.wrapping import Concern

HEADER = "x-request-id"
current_request_id: ContextVar[str] = ContextVar("current_request_id", default="-")


class RequestIdConcern(Concern):
    """Sets `current_request_id` for the call and tells it to the caller in the trailing metadata."""

    @contextmanager
    def around(self, method: str, context: aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """Take or make the id."""
        given = str(dict(context.invocation_metadata() or ()).get(HEADER, ""))
        request_id = given if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", given) else secrets.token_hex(8)
        current_request_id.set(request_id)
        context.set_trailing_metadata(((HEADER, request_id),))
        yield
