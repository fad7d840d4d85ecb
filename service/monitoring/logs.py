"""Log lines for people or for machines; each carries the request, caller, project, search and trace that it is about."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

from opentelemetry import trace
from pythonjsonlogger.json import JsonFormatter

from service.access.principal import current_principal
from service.interceptors.request_id import current_request_id

LogFormat = Literal["text", "json"]
FIELDS = ("request_id", "principal", "project", "search", "trace_id")
_TEXT = "%(asctime)s %(name)s %(levelname)s %(message)s%(about)s"
_NOBODY = "-"

current_search: ContextVar[str] = ContextVar("current_search", default="")
"""``projects/{project}/searches/{search}`` that this code works on."""


@contextlib.contextmanager
def about_search(name: str) -> Iterator[None]:
    """What is logged in the block carries the search and its project."""
    token = current_search.set(name)
    try:
        yield
    finally:
        current_search.reset(token)


def configure_logging(level: str, form: LogFormat) -> None:
    """Log to standard error, for the whole process."""
    handler = logging.StreamHandler()
    handler.addFilter(add_fields)
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def formatter(form: LogFormat) -> logging.Formatter:
    """How a record becomes a line."""
    if form == "text":
        return logging.Formatter(_TEXT)
    names = ["asctime", "levelname", "name", "message", *FIELDS]
    renamed = {"asctime": "time", "levelname": "level", "name": "logger"}
    return JsonFormatter(" ".join(f"%({name})s" for name in names), rename_fields=renamed)


def add_fields(record: logging.LogRecord) -> bool:
    """Put `FIELDS` on a record; those that are not known are empty."""
    search = current_search.get()
    span = trace.get_current_span().get_span_context()
    record.request_id = _known(current_request_id.get())
    record.principal = _known(current_principal.get().id)
    record.search = search
    record.project = search.split("/")[1] if search.startswith("projects/") else ""
    record.trace_id = trace.format_trace_id(span.trace_id) if span.is_valid else ""
    record.about = f" [{search}]" if search and search not in record.getMessage() else ""
    return True


def _known(word: str) -> str:
    return "" if word == _NOBODY else word
