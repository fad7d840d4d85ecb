from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from paretopress.cli.app import app
from paretopress.errors import RequestRefusedError
from service.access.principal import Scope
from service.access.tokens import ApiToken
from service.testing import InProcessServer
from tests.service.callers import secret
from tests.service.fakes import FakeImporter

PROJECT = "projects/vision"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessServer]:
    with InProcessServer(tmp_path_factory.mktemp("tokens"), FakeImporter(), auth="tokens") as running:
        yield running


def invoke(server: InProcessServer, token: str, *arguments: str) -> Result:
    environment = {"COLUMNS": "80", "PARETOPRESS_TOKEN": token, "PARETOPRESS_PROJECT": PROJECT}
    return CliRunner(env=environment).invoke(app, ["--address", server.address, *arguments])


def test_tokens_are_made_listed_and_revoked(server: InProcessServer) -> None:
    administrator = secret(server, "vision")
    made = invoke(server, administrator, "tokens", "create", "--scope", "write", "--days", "1", "--name", "build machine")
    assert made.exit_code == 0, made.output
    token = made.stdout.strip()
    parsed = ApiToken.parse(token)
    assert parsed is not None
    assert "shown once" in made.stderr
    assert token not in made.stderr
    assert invoke(server, token, "models", "list").exit_code == 0
    listed = invoke(server, administrator, "tokens", "list").stdout
    row = next(line for line in listed.splitlines() if parsed.token_id in line)
    for words in ("write", "until", "build machine"):
        assert words in row
    assert max(map(len, listed.splitlines())) <= 80
    assert token not in listed
    assert "was revoked" in invoke(server, administrator, "tokens", "revoke", parsed.token_id).stdout
    row = next(line for line in invoke(server, administrator, "tokens", "list").stdout.splitlines() if parsed.token_id in line)
    assert "revoked" in row


@pytest.mark.parametrize(("token", "hint"), [("", "PARETOPRESS_TOKEN"), ("reader", "more scope")])
def test_who_is_refused_is_told_what_to_do(server: InProcessServer, token: str, hint: str) -> None:
    given = secret(server, "vision", Scope.READ) if token else ""
    error = invoke(server, given, "tokens", "list").exception
    assert isinstance(error, RequestRefusedError)
    assert hint in error.hint
    assert not given or given not in str(error)
