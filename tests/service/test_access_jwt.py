from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from paretopress.errors import RequestRefusedError
from service.access.json_web_tokens import JwtRules, JwtVerifier
from service.access.principal import Scope
from service.access.signing_keys import KeyFile, KeyFileError, KeySet
from service.errors import KeysUnavailableError, PermissionDeniedError, UnauthenticatedError
from service.testing import InProcessServer
from tests.service.fakes import FakeImporter

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
KEYS = {"RS256": RSA, "ES256": EC, "EdDSA": ED}
RULES = JwtRules("https://issuer", "paretopress", "paretopress_project", "scope")


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {"iss": "https://issuer", "aud": "paretopress", "sub": "alice", "exp": now + 300, "nbf": now - 10}
    made |= {"paretopress_project": "vision", "scope": "openid paretopress:write read"}
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def signed(algorithm: str = "RS256", key_id: str | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), KEYS[algorithm], algorithm, {"kid": key_id or algorithm})


def jwks(*algorithms: str) -> bytes:
    keys = []
    for algorithm in algorithms:
        key = jwt.get_algorithm_by_name(algorithm).to_jwk(KEYS[algorithm].public_key(), as_dict=True)
        keys.append({**key, "kid": algorithm, "use": "sig"})
    odd = [{"kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "HS256"}, {"kid": "broken"}, "nonsense"]
    return json.dumps({"keys": [*keys, *odd]}).encode()


class Provider:
    """An identity provider's JWKS address; ``answer`` of None is an error, and every question is counted."""

    def __init__(self) -> None:
        self.answer: bytes | None = jwks("RS256", "EdDSA")
        self.questions = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.questions += 1
                self.send_response(200 if provider.answer else 500)
                self.end_headers()
                self.wfile.write(provider.answer or b"")

            def log_message(self, *arguments: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join(5)


def key_file(folder: Path, algorithm: str) -> Path:
    path = folder / "key.pem"
    path.write_bytes(KEYS[algorithm].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.mark.parametrize("algorithm", sorted(KEYS))
async def test_a_good_token_says_who_calls(tmp_path: Path, algorithm: str) -> None:
    verified = await JwtVerifier(KeyFile(key_file(tmp_path, algorithm)), RULES).verify(signed(algorithm))
    assert verified.principal.id == "jwt:alice"
    assert verified.principal.projects == {"vision"}
    assert verified.principal.scope is Scope.WRITE


async def test_projects_may_be_several(tmp_path: Path) -> None:
    verifier = JwtVerifier(KeyFile(key_file(tmp_path, "RS256")), RULES)
    principal = (await verifier.verify(signed(paretopress_project=["a", "b"], scope=["admin"]))).principal
    assert principal.may_enter("a")
    assert principal.may_enter("b")
    assert not principal.may_enter("c")
    assert principal.scope is Scope.ADMIN


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(time.time()) - 60},
        {"exp": None},
        {"nbf": int(time.time()) + 86_400},
        {"iss": "https://other"},
        {"iss": None},
        {"aud": "others"},
        {"aud": None},
        {"sub": None},
    ],
    ids=lambda changes: "-".join(f"{k}={v is not None}" for k, v in changes.items()),
)
async def test_a_token_that_is_not_good_here_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    verifier = JwtVerifier(KeyFile(key_file(tmp_path, "RS256")), RULES)
    with pytest.raises(UnauthenticatedError):
        await verifier.verify(signed(**changes))


async def test_a_subject_cannot_forge_lines_of_a_log(tmp_path: Path) -> None:
    verified = await JwtVerifier(KeyFile(key_file(tmp_path, "RS256")), RULES).verify(signed(sub="eve\nroot"))
    assert verified.principal.id == "jwt:eve?root"


@pytest.mark.parametrize("changes", [{"paretopress_project": None}, {"paretopress_project": []}, {"scope": "openid"}, {"scope": 7}])
async def test_a_token_that_gives_nothing_is_told_which_claim(tmp_path: Path, changes: dict[str, Any]) -> None:
    verifier = JwtVerifier(KeyFile(key_file(tmp_path, "RS256")), RULES)
    with pytest.raises(PermissionDeniedError, match=next(iter(changes))):
        await verifier.verify(signed(**changes))


async def test_no_algorithm_with_a_shared_secret_and_none_at_all(tmp_path: Path) -> None:
    path = key_file(tmp_path, "RS256")
    verifier = JwtVerifier(KeyFile(path), RULES)
    head, body, _ = signed().split(".")
    # PyJWT refuses to sign with a public key, so the classical confusion is forged by hand.
    forged_head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"RS256"}').rstrip(b"=").decode()
    digest = hmac.new(path.read_bytes(), f"{forged_head}.{body}".encode(), hashlib.sha256).digest()
    confused = f"{forged_head}.{body}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
    for text in (confused, jwt.encode(claims(), None, "none"), f"{head}.{body}.", f"{head}.{body}.AAAA", signed("EdDSA")):
        with pytest.raises(UnauthenticatedError):
            await verifier.verify(text)


async def test_keys_are_fetched_once_and_again_for_an_unknown_id_but_not_for_each(provider: Provider) -> None:
    clock = [0.0]
    keys = KeySet(provider.url, lambda: clock[0])
    for _ in range(5):
        assert (await keys.find("RS256")) is not None
    assert provider.questions == 1
    provider.answer = jwks("RS256", "ES256")
    assert await keys.find("ES256") is None, "asked a moment ago"
    clock[0] += 11
    assert (await keys.find("ES256")) is not None
    assert provider.questions == 2
    for number in range(20):
        assert await keys.find(f"made-up-{number}") is None
    assert provider.questions == 2
    assert await keys.find("shared") is None, "a shared secret is no public key"


async def test_a_provider_that_is_away_lets_nobody_in_once_its_keys_are_old(provider: Provider) -> None:
    clock = [0.0]
    keys = KeySet(provider.url, lambda: clock[0])
    provider.answer = None
    with pytest.raises(KeysUnavailableError):
        await keys.find("RS256")
    provider.answer, clock[0] = jwks("RS256"), 20.0
    assert await keys.find("RS256") is not None
    provider.answer, clock[0] = b"<html>", 1000.0
    assert await keys.find("RS256") is not None, "known keys are good for an hour"
    clock[0] = 5000.0
    with pytest.raises(KeysUnavailableError):
        await keys.find("RS256")


def test_a_server_takes_tokens_of_the_provider(tmp_path: Path, provider: Provider) -> None:
    settings = {"auth": "tokens", "jwt_issuer": "https://issuer", "jwt_audience": "paretopress", "jwt_jwks_url": provider.url}
    with InProcessServer(tmp_path / "data", FakeImporter(), **settings) as server:
        with server.client(project="projects/vision", token=signed("EdDSA")) as client:
            assert list(client.list_models()) == []
            assert list(client.list_searches()) == []
        assert provider.questions == 1
        cases = {
            signed(exp=int(time.time()) - 60): grpc.StatusCode.UNAUTHENTICATED,
            signed(paretopress_project="audio"): grpc.StatusCode.NOT_FOUND,
            signed(scope="openid"): grpc.StatusCode.PERMISSION_DENIED,
        }
        for token, code in cases.items():
            with server.client(project="projects/vision", token=token) as client, pytest.raises(RequestRefusedError) as error:
                list(client.list_models())
            assert error.value.code is code


def test_a_provider_that_never_answered_is_unavailable(tmp_path: Path, provider: Provider) -> None:
    provider.answer = None
    settings = {"auth": "tokens", "jwt_issuer": "https://issuer", "jwt_audience": "paretopress", "jwt_jwks_url": provider.url}
    with (
        InProcessServer(tmp_path / "data", FakeImporter(), **settings) as server,
        server.client(token=signed(), retry_s=0.0) as client,
        pytest.raises(RequestRefusedError) as error,
    ):
        list(client.list_models())
    assert (error.value.code, error.value.reason) == (grpc.StatusCode.UNAVAILABLE, "KEYS_UNAVAILABLE")


def test_a_key_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(KeyFileError, match="public key"):
        KeyFile(path)
    small = ec.generate_private_key(ec.SECP384R1()).public_key()
    path.write_bytes(small.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(KeyFileError, match="P-256"):
        KeyFile(path)
