"""Counts calls and measures them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpc import aio

from service.errors import StoreUnavailableError, describe_error
from service.interceptors.wrapping import Concern
from service.monitoring.metrics import DATABASE_ERRORS, RPC_SECONDS, RPCS, RPCS_IN_FLIGHT


class MetricsConcern(Concern):
    """Stands inside the error translation, so that it sees the domain's errors. Only methods that exist come here."""

    @contextmanager
    def around(self, method: str, context: aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """Count the call."""
        name = method.rpartition("/")[2]
        begin, code = time.monotonic(), "OK"
        in_flight = RPCS_IN_FLIGHT.labels(name)
        in_flight.inc()
        try:
            yield
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:
            code = describe_error(error).code.name
            if isinstance(error, StoreUnavailableError):
                DATABASE_ERRORS.inc()
            raise
        finally:
            in_flight.dec()
            RPCS.labels(name, code).inc()
            RPC_SECONDS.labels(name).observe(time.monotonic() - begin)
