"""Whether the server can do its work: the store, the blobs and the workers are looked at every few seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from grpc_health.v1 import health_pb2

from service.errors import ServiceError
from service.monitoring.metrics import READY

_LOG = logging.getLogger("paretopress.readiness")
LOOK_EVERY_S = 3.0
_STUCK_AFTER_S = 30.0
Check = Callable[[], object]
"""Returns when its part can be used; a `ServiceError` says why not. May block for some seconds."""


class NoWorkerError(ServiceError):
    """No worker lives: what is queued waits."""


class HealthServicer(Protocol):
    """What readiness needs of gRPC's health service."""

    async def set(self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        """Tell a service's state, and all that watch it."""
        ...


class Readiness:
    """Looks, remembers, and tells gRPC's health service, the log and the metrics; belongs to one event loop.

    Args:
        checks: by part, such as ``store``.
        needs: by gRPC service, the parts without which it cannot serve. The server as a whole (``""``) needs all of theirs.
    """

    def __init__(self, checks: Mapping[str, Check], needs: Mapping[str, Sequence[str]], health: HealthServicer) -> None:
        self._checks = checks
        self._needs = {**needs, "": tuple(dict.fromkeys(part for parts in needs.values() for part in parts))}
        self._health = health
        self._problems: dict[str, str] = dict.fromkeys(checks, "has not been looked at yet")
        self._looked_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    @property
    def problems(self) -> Mapping[str, str]:
        """By part, why it cannot be used; empty when the server is ready. Any thread may ask."""
        return {part: problem for part, problem in self._problems.items() if problem and part in self._needs[""]}

    @property
    def is_alive(self) -> bool:
        """Whether the event loop still turns. Any thread may ask."""
        return time.monotonic() - self._looked_at < _STUCK_AFTER_S

    def start(self) -> None:
        """Look every few seconds from now on."""
        self._task = asyncio.create_task(self._keep_looking())

    async def stop(self) -> None:
        """The server takes no more calls."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._problems = dict.fromkeys(self._checks, "the server is stopping")

    async def look(self) -> None:
        """Look once and tell."""
        found = await asyncio.gather(*(asyncio.to_thread(_problem, check) for check in self._checks.values()))
        for part, problem in zip(self._checks, found, strict=True):
            self._note(part, problem)
        for service, parts in self._needs.items():
            serves = not any(self._problems[part] for part in parts)
            status = health_pb2.HealthCheckResponse.SERVING if serves else health_pb2.HealthCheckResponse.NOT_SERVING
            await self._health.set(service, status)
        self._looked_at = time.monotonic()

    def _note(self, part: str, problem: str) -> None:
        before, self._problems[part] = self._problems[part], problem
        READY.labels(part).set(0 if problem else 1)
        if problem and problem != before:
            _LOG.warning("not ready: %s: %s", part, problem)
        elif before and not problem:
            _LOG.info("ready: %s", part)

    async def _keep_looking(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)


def _problem(check: Check) -> str:
    try:
        check()
    except ServiceError as error:
        return str(error)
    except Exception as error:
        _LOG.exception("a check of readiness failed")
        return f"cannot be checked ({type(error).__name__}); the log has the details"
    return ""
