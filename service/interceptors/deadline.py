"""Carries a call's deadline, and its end, to the threads that work for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpc import aio

from service.calls import Call, current_call
from service.interceptors.wrapping import Concern


class DeadlineConcern(Concern):
    """Sets `current_call`. gRPC cancels a call whose deadline has passed, but not the thread that it waits for."""

    @contextmanager
    def around(self, method: str, context: aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """Note when the caller goes."""
        remaining_s = context.time_remaining()
        call = Call(None if remaining_s is None else time.monotonic() + remaining_s)
        current_call.set(call)
        try:
            yield
        except asyncio.CancelledError:
            call.is_abandoned = True
            raise
