"""HTTP for machines that look after machines: ``/metrics`` for Prometheus, ``/readyz`` and ``/livez`` for orchestrators."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from service.errors import ServiceError
from service.monitoring.metrics import REGISTRY
from service.monitoring.readiness import Readiness

_LOG = logging.getLogger("paretopress.monitoring")
StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class MonitoringAddressError(ServiceError):
    """The port of the metrics is taken."""


class MonitoringServer:
    """Threads of its own, so that it answers when the event loop does not. Shows no data of any project.

    Args:
        port: 0 takes a free one.

    Raises:
        MonitoringAddressError: the port is taken.
    """

    def __init__(self, host: str, port: int, readiness: Readiness, collectors: Iterable[Collector]) -> None:
        self._readiness = readiness
        self._collectors = tuple(collectors)
        self._metrics = make_wsgi_app(REGISTRY)
        try:
            self._http = make_server(host, port, self._answer, ThreadingWSGIServer, _SilentHandler)
        except OSError as error:
            raise MonitoringAddressError(f"cannot listen on {host}:{port} ({error}); set PARETOPRESS_METRICS_PORT") from error
        self._thread = threading.Thread(target=self._http.serve_forever, name="monitoring", daemon=True)

    @property
    def address(self) -> str:
        """``host:port``."""
        host, port = self._http.server_address[:2]
        return f"{host!s}:{port}"

    def start(self) -> None:
        """Answer from now on."""
        for collector in self._collectors:
            REGISTRY.register(collector)
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._http.shutdown()
        self._http.server_close()
        for collector in self._collectors:
            REGISTRY.unregister(collector)

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        if path == "/livez":
            return _plain(start_response, "" if self._readiness.is_alive else "the event loop does not turn")
        if path == "/readyz":
            return _plain(start_response, "\n".join(f"{part}: {words}" for part, words in self._readiness.problems.items()))
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"there are /metrics, /readyz and /livez\n"]


def _plain(start_response: StartResponse, problem: str) -> Iterable[bytes]:
    status = "503 Service Unavailable" if problem else "200 OK"
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [(problem or "ok").encode() + b"\n"]


class _SilentHandler(WSGIRequestHandler):
    """Does not log each scrape."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
