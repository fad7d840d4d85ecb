"""One log line per call: method, outcome, milliseconds, request id."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpc import aio

from service.errors import describe_error
from service.interceptors.request_id import current_request_id
from service.interceptors.wrapping import Concern

_LOG = logging.getLogger("paretopress.calls")


class LoggingConcern(Concern):
    """Stands inside the error translation, so that it sees the domain's errors."""

    @contextmanager
    def around(self, method: str, context: aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """Log the call when it has ended."""
        begin, outcome = time.monotonic(), "OK"
        try:
            yield
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        except Exception as error:
            outcome = describe_error(error).code.name
            raise
        finally:
            duration_ms = 1e3 * (time.monotonic() - begin)
            _LOG.info("%s %s %.1f ms [%s]", method, outcome, duration_ms, current_request_id.get())
