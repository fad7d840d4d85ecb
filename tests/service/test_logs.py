from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopress.errors import RequestRefusedError
from service.access.principal import Scope
from service.monitoring.logs import about_search, add_fields, formatter
from service.testing import InProcessServer
from tests.service.callers import secret
from tests.service.fakes import FakeImporter

SEARCH = "projects/vision/searches/s1"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the service's own logger writes as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(add_fields)
    handler.setFormatter(formatter("json"))
    logger = logging.getLogger("paretopress")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(before)


def lines(stream: io.StringIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_which_search_it_is_about(stream: io.StringIO) -> None:
    with about_search(SEARCH):
        logging.getLogger("paretopress.worker").warning("out of\nmemory")
    logging.getLogger("paretopress.worker").info("idle")
    about, idle = lines(stream)
    assert (about["message"], about["level"], about["logger"]) == ("out of\nmemory", "WARNING", "paretopress.worker")
    assert (about["search"], about["project"], about["request_id"]) == (SEARCH, "vision", "")
    assert idle["search"] == ""
    assert about["time"][:2] == "20"


def test_an_exception_stays_in_its_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        logging.getLogger("paretopress.worker").exception("failed")
    (line,) = lines(stream)
    assert "ValueError: a\nb" in line["exc_info"]


def test_a_call_is_logged_with_its_caller_and_request(stream: io.StringIO, tmp_path: Path) -> None:
    with InProcessServer(tmp_path / "data", FakeImporter(), auth="tokens") as server:
        token = secret(server, "vision", Scope.READ)
        with server.client(project="projects/vision", token=token) as client, pytest.raises(RequestRefusedError) as refused:
            client.get_search("projects/vision/searches/none")
    (call,) = [line for line in lines(stream) if "GetSearch" in line["message"]]
    assert call["request_id"] == refused.value.request_id
    assert call["principal"] == f"token:{token.split('_')[1]}"
    assert token not in stream.getvalue()


def test_people_get_one_line_of_text() -> None:
    record = logging.LogRecord("paretopress.worker", logging.INFO, "", 0, "busy", (), None)
    with about_search(SEARCH):
        add_fields(record)
    assert formatter("text").format(record).endswith(f"paretopress.worker INFO busy [{SEARCH}]")
