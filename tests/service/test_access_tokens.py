from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2 as pb

from paretopress.client import Client
from paretopress.errors import RequestRefusedError
from paretopress.v1 import access_pb2
from service import admin
from service.access.granting import grant_token
from service.access.principal import Scope
from service.access.token_verifier import REMEMBERED_S, TokenVerifier
from service.access.tokens import ApiToken
from service.converters.access import TokenRequest
from service.errors import StoreUnavailableError, UnauthenticatedError
from service.resources import TokenName
from service.store.access_store import AccessStore, StoredToken
from service.store.database import Database
from service.testing import InProcessServer
from tests.service.callers import secret
from tests.service.fakes import FakeImporter


class Clock:
    """Seconds since the epoch that move when told."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class CountingStore(AccessStore):
    """Counts the questions; ``away`` makes it not answer."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.questions = 0
        self.away = False

    def find(self, token_id: str) -> StoredToken | None:
        self.questions += 1
        if self.away:
            raise StoreUnavailableError("away")
        return super().find(token_id)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[InProcessServer]:
    with InProcessServer(tmp_path / "data", FakeImporter(), auth="tokens") as server:
        yield server


def asked(expire_time: float, **changes: object) -> TokenRequest:
    return TokenRequest(
        **{"project": "p", "scope": Scope.READ, "display_name": "", "all_projects": False, **changes}, expire_time=expire_time
    )  # type: ignore[arg-type]


def test_a_token_is_read_back_and_its_secret_is_not_shown() -> None:
    token = ApiToken.fresh()
    assert ApiToken.parse(token.text) == token
    assert token.secret not in repr(token)
    assert token.matches(token.secret_sha256)
    assert not token.matches(ApiToken.fresh().secret_sha256)
    assert ApiToken.parse(token.text + "x") is None
    assert ApiToken.parse("pp_" + token.text) is None


def test_tokens_in_the_store(database: Database) -> None:
    store, now = AccessStore(database), time.time()
    stored, token = grant_token(store, asked(now + 60), "me")
    assert store.find(token.token_id) == stored
    assert token.secret not in repr(stored)
    store.note_use(token.token_id, now)
    store.note_use(token.token_id, now + 30)
    found = store.find(token.token_id)
    assert found is not None
    assert found.last_use_time == now
    revoked = store.revoke(TokenName("p", token.token_id), with_all_projects=False)
    assert revoked.revoke_time is not None
    assert store.revoke(TokenName("p", token.token_id), with_all_projects=False) == revoked


async def test_the_store_is_asked_once_for_many_calls_and_revocation_holds_within_seconds(database: Database) -> None:
    store, clock = CountingStore(database), Clock()
    _, token = grant_token(store, asked(clock.now + 60), "me")
    verifier = TokenVerifier(store, clock)
    found = await asyncio.gather(*(verifier.verify(token) for _ in range(50)))
    assert {principal.id for principal in found} == {f"token:{token.token_id}"}
    assert store.questions == 1
    store.revoke(TokenName("p", token.token_id), with_all_projects=False)
    clock.now += REMEMBERED_S
    with pytest.raises(UnauthenticatedError, match="revoked"):
        await verifier.verify(token)
    await verifier.stop()
    assert store.questions == 2


async def test_expiry_is_looked_at_in_every_call(database: Database) -> None:
    store, clock = AccessStore(database), Clock()
    _, token = grant_token(store, asked(clock.now + 1), "me")
    verifier = TokenVerifier(store, clock)
    await verifier.verify(token)
    clock.now += 1
    with pytest.raises(UnauthenticatedError, match="expired"):
        await verifier.verify(token)
    await verifier.stop()


async def test_a_store_that_is_away_lets_nobody_in(database: Database) -> None:
    store, clock = CountingStore(database), Clock()
    _, token = grant_token(store, asked(clock.now + 60), "me")
    verifier = TokenVerifier(store, clock)
    store.away = True
    with pytest.raises(StoreUnavailableError):
        await verifier.verify(token)


async def test_a_wrong_secret_is_told_the_same_as_an_unknown_token(database: Database) -> None:
    store = AccessStore(database)
    _, token = grant_token(store, asked(time.time() + 60), "me")
    store.revoke(TokenName("p", token.token_id), with_all_projects=False)
    verifier, words = TokenVerifier(store), set()
    for guess in (ApiToken(token.token_id, ApiToken.fresh().secret), ApiToken.fresh()):
        with pytest.raises(UnauthenticatedError) as error:
            await verifier.verify(guess)
        words.add(str(error.value))
    assert len(words) == 1


def test_making_listing_and_revoking_over_the_wire(guarded: InProcessServer) -> None:
    with guarded.client(project="projects/p", token=secret(guarded, "p")) as administrator:
        made = administrator.create_token(access_pb2.Token.WRITE, display_name="ci", lifetime_s=3600)
        with guarded.client(project="projects/p", token=made.secret) as bearer:
            assert list(bearer.list_models()) == []
            refused = code_of(bearer)
            assert refused is grpc.StatusCode.PERMISSION_DENIED
        listed = list(administrator.list_tokens())
        assert [token.display_name for token in listed] == ["ci", ""]
        assert listed[0].creator.startswith("token:")
        assert made.secret not in str(listed)
        assert administrator.revoke_token(made.token.name).HasField("revoke_time")


def code_of(client: Client) -> grpc.StatusCode:
    """How the client is refused to list tokens."""
    with pytest.raises(RequestRefusedError) as error:
        list(client.list_tokens())
    return error.value.code


def test_a_revoked_token_ends_its_streams_too(guarded: InProcessServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.interceptors.auth.REMEMBERED_S", 0.0)
    monkeypatch.setattr("service.access.token_verifier.REMEMBERED_S", 0.0)
    token = secret(guarded, "p", Scope.READ)
    database = Database(guarded.settings.resolved_database_url)
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    revoked = False

    def requests() -> Iterator[pb.ServerReflectionRequest]:
        nonlocal revoked
        yield pb.ServerReflectionRequest(list_services="")
        AccessStore(database).revoke(TokenName("p", token.split("_")[1]), with_all_projects=False)
        revoked = True
        yield pb.ServerReflectionRequest(list_services="")

    with grpc.insecure_channel(guarded.address) as channel:
        stub = channel.stream_stream(method, pb.ServerReflectionRequest.SerializeToString, pb.ServerReflectionResponse.FromString)
        answers = stub(requests(), metadata=[("authorization", f"Bearer {token}")], timeout=10)
        with pytest.raises(grpc.RpcError) as error:
            list(answers)
    database.close()
    assert revoked
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_tokens_for_every_project_are_made_and_seen_only_by_their_like(guarded: InProcessServer) -> None:
    everywhere = secret(guarded, "p", all_projects=True)
    name = TokenName("p", everywhere.split("_")[1]).name
    with guarded.client(project="projects/p", token=secret(guarded, "p")) as administrator:
        with pytest.raises(RequestRefusedError, match="every project"):
            administrator.create_token(access_pb2.Token.READ, all_projects=True)
        assert name not in {token.name for token in administrator.list_tokens()}
        with pytest.raises(RequestRefusedError, match="does not exist"):
            administrator.revoke_token(name)
    with guarded.client(project="projects/q", token=everywhere) as root:
        assert root.create_token(access_pb2.Token.READ, all_projects=True).token.all_projects
    with guarded.client(project="projects/p", token=everywhere) as root:
        assert name in {token.name for token in root.list_tokens()}


@pytest.mark.parametrize(
    ("token", "field"),
    [
        (access_pb2.Token(), "token.scope"),
        (access_pb2.Token(scope=access_pb2.Token.READ, display_name="x" * 201), "token.display_name"),
        (access_pb2.Token(scope=access_pb2.Token.READ, expire_time={"seconds": 1}), "token.expire_time"),
    ],
)
def test_bad_fields_are_named(client: Client, token: access_pb2.Token, field: str) -> None:
    with pytest.raises(RequestRefusedError) as error:
        client._call(client._access.CreateToken, access_pb2.CreateTokenRequest(parent="projects/p", token=token))
    assert [problem.field for problem in error.value.problems] == [field]


def test_the_first_token_is_made_on_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETOPRESS_DATA_DIR", str(tmp_path / "data"))
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        assert admin.main(["create-token", "--project", "p", "--scope", "admin", "--days", "1", "--name", "first"]) == 0
    token = out.getvalue().strip()
    assert ApiToken.parse(token) is not None
    with InProcessServer(tmp_path / "data", FakeImporter(), auth="tokens") as server:
        with server.client(project="projects/p", token=token) as client:
            (listed,) = client.list_tokens()
            assert (listed.creator, listed.scope) == ("operator", access_pb2.Token.ADMIN)
        with redirect_stdout(io.StringIO()) as out:
            assert admin.main(["revoke-token", listed.name]) == 0
            assert admin.main(["list-tokens", "--project", "p"]) == 0
        assert out.getvalue().count("revoked") == 2
    with redirect_stderr(io.StringIO()) as err:
        assert admin.main(["revoke-token", "projects/p/tokens/none"]) == 2
    assert "does not exist" in err.getvalue()
    (log,) = (tmp_path / "data" / "audit").iterdir()
    operators = [json.loads(line) for line in log.read_text().splitlines() if '"operator"' in line]
    assert [entry["method"] for entry in operators] == ["service.admin create-token", "service.admin revoke-token"]
    assert {entry["resource"] for entry in operators} == {listed.name}
