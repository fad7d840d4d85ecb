"""Two hundred hostile files and some hundred malformed requests: all answered with words, nothing run, nothing left behind.

`benchmarks.service_fuzz` does the same with ten thousand of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from benchmarks.service_fuzz import existing_names
from service.testing import InProcessServer
from tests.fuzzing.calls import send_all
from tests.fuzzing.corpus import Corpus
from tests.fuzzing.files import MUTATORS, hostile_files, sound_file
from tests.fuzzing.intake import take_all_in, take_in
from tests.fuzzing.payloads import traces
from tests.fuzzing.requests import hostile_calls, methods

FILES, REQUESTS, SEED = 200, 400, 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.make(tmp_path_factory.mktemp("outside") / "outside")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessServer]:
    with InProcessServer(tmp_path_factory.mktemp("hostile") / "data") as running:
        yield running


@pytest.mark.parametrize("format", ["npz", "zip", "tar"])
def test_what_the_mutators_start_from_is_accepted(format: str, corpus: Corpus) -> None:
    """Of every format in the benchmark; the others take seconds each."""
    verdict = take_in(sound_file(format, corpus), corpus.outside)
    assert verdict.outcome == "accepted", f"{verdict.message} {verdict.detail}"


def test_hostile_files_are_answered_and_leave_nothing(corpus: Corpus) -> None:
    verdicts = list(take_all_in(hostile_files(corpus, SEED), FILES, corpus.outside))
    bad = [f"{v.file.format} {v.file.name}: {v.outcome} {v.message} {v.detail} {v.strays}" for v in verdicts if not v.is_fine]
    assert not bad, "\n".join(bad)
    assert {v.file.format for v in verdicts} == set(MUTATORS)
    # A reader that refused everything, or nothing, would prove nothing.
    outcomes = Counter(v.outcome for v in verdicts)
    assert len(outcomes) >= 6, outcomes
    assert outcomes["accepted"] < FILES / 3, outcomes


def test_malformed_requests_are_answered_with_typed_errors(server: InProcessServer, corpus: Corpus, tmp_path: Path) -> None:
    names = existing_names(server, corpus, tmp_path)
    with grpc.insecure_channel(server.address) as channel:
        answers = list(send_all(hostile_calls(names), REQUESTS, channel))
    bad = [f"{a.call.path}: {a.code.name} {a.reason} {a.message} {a.call.messages!r:.500}" for a in answers if not a.is_fine]
    assert not bad, "\n".join(bad)
    assert {a.call.method.full_name for a in answers} == {m.full_name for m in methods()}
    codes = Counter(a.code for a in answers)
    assert codes[grpc.StatusCode.INVALID_ARGUMENT] > REQUESTS / 4, codes
    assert codes[grpc.StatusCode.OK] > REQUESTS / 50, codes
    assert not traces([tmp_path, server.settings.data_dir], corpus.outside)
    assert list((server.settings.data_dir / "scratch").iterdir()) == []


def test_bytes_that_are_no_grpc_do_not_disturb_others(server: InProcessServer) -> None:
    import socket

    host, _, port = server.address.rpartition(":")
    for junk in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 4096,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096,
        b"\x16\x03\x01\x02\x00",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(junk)
    with server.client() as client:
        assert list(client.list_models()) is not None
