"""Secrets never in logs: a real server process at DEBUG is used and abused, and everything that it wrote is searched."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from paretopress.client import Client
from paretopress.errors import RequestRefusedError
from paretopress.v1 import access_pb2, model_pb2
from service.access.granting import grant_token
from service.access.principal import Scope
from service.converters.access import TokenRequest
from service.server import _processes, _without_password
from service.settings import Settings
from service.store.access_store import AccessStore
from service.store.database import Database

START_S = 60.0
SIGNER = ed25519.Ed25519PrivateKey.generate()


@contextmanager
def serving(environment: dict[str, str], output: Path) -> Iterator[str]:
    """A real server process; gives its address."""
    command = [sys.executable, "-m", "service.server"]
    with output.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=file)
        try:
            yield address_in(output, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def address_in(output: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in output.read_text().splitlines():
            if line.startswith("Paretopress listens on "):
                return line.split()[3].rstrip(";")
        time.sleep(0.05)
    raise AssertionError(output.read_text())


def test_no_secret_is_written_anywhere(tmp_path: Path, postgresql_database_url: str) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    made.private_key_pem.write_to_path(tmp_path / "server.key")
    made.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    (tmp_path / "issuer.pem").write_bytes(public_key_pem())
    mlflow_password, mlflow_token = secrets.token_hex(12), secrets.token_hex(12)
    environment = {
        "PARETOPRESS_LOG_LEVEL": "DEBUG",
        "PARETOPRESS_PORT": "0",
        "PARETOPRESS_DATA_DIR": str(tmp_path / "data"),
        "PARETOPRESS_DATABASE_URL": postgresql_database_url,
        "PARETOPRESS_EMBEDDED_WORKER": "false",
        "PARETOPRESS_AUTH": "tokens",
        "PARETOPRESS_TLS_CERTIFICATE": str(tmp_path / "server.pem"),
        "PARETOPRESS_TLS_PRIVATE_KEY": str(tmp_path / "server.key"),
        "PARETOPRESS_JWT_ISSUER": "issuer",
        "PARETOPRESS_JWT_AUDIENCE": "paretopress",
        "PARETOPRESS_JWT_PUBLIC_KEY": str(tmp_path / "issuer.pem"),
        "MLFLOW_TRACKING_URI": f"http://someone:{mlflow_password}@127.0.0.1:9",
        "MLFLOW_TRACKING_TOKEN": mlflow_token,
    }
    database = Database(postgresql_database_url)
    asked = TokenRequest("p", Scope.ADMIN, "", False, time.time() + 60)
    stored, token = grant_token(AccessStore(database), asked, "test")
    with serving(environment, tmp_path / "output") as address:
        used = use_and_abuse(address, tmp_path, token.text)
        (tmp_path / "server.key").write_text(made.private_key_pem.bytes().decode()[:200])
        with pytest.raises(RequestRefusedError):
            Client(address, token="pp_wrong", ca_certificate=tmp_path / "ca.pem").get_model("projects/p/models/m")
    database.close()
    written = (tmp_path / "output").read_text()
    written += "".join(path.read_text(errors="replace") for path in (tmp_path / "data" / "audit").iterdir())
    assert "DEBUG" in written
    assert token.token_id in written, "the public part says who it was"
    key_lines = made.private_key_pem.bytes().decode().splitlines()[1:-1]
    database_password = postgresql_database_url.split(":")[2].partition("@")[0]
    assert len(database_password) > 8
    hidden = [token.secret, stored.secret_sha256, *used, *key_lines, database_password, mlflow_password, mlflow_token]
    assert [name for name in hidden if name in written] == []


def public_key_pem() -> bytes:
    return SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def use_and_abuse(address: str, folder: Path, token: str) -> list[str]:
    """Good and bad calls of many kinds; returns the secrets that they carried."""
    claims = {"iss": "issuer", "aud": "paretopress", "sub": "alice", "paretopress_project": "p", "scope": "read"}
    good = jwt.encode({**claims, "exp": time.time() + 60}, SIGNER, "EdDSA")
    expired = jwt.encode({**claims, "exp": time.time() - 600}, SIGNER, "EdDSA")
    wrong = token[:-4] + "AAAA"
    (folder / "net.onnx").write_bytes(b"no network")
    with Client(address, "projects/p", token=token, ca_certificate=folder / "ca.pem") as client:
        fresh = client.create_token(access_pb2.Token.READ, display_name="ci").secret
        for call in (
            lambda: client.get_model("projects/p/models/none"),
            lambda: client.get_model("projects/q/models/none"),
            lambda: client.upload_model(folder / "net.onnx", model_pb2.Model.ONNX),
            lambda: client.get_model("nonsense"),
        ):
            with pytest.raises(RequestRefusedError):
                call()
        client.revoke_token(next(iter(client.list_tokens())).name)
    for text, refused in ((good, False), (expired, True), (wrong, True), ("pp_" + "x" * 40, True)):
        with Client(address, "projects/p", token=text, ca_certificate=folder / "ca.pem") as client:
            if refused:
                with pytest.raises(RequestRefusedError):
                    list(client.list_models())
            else:
                assert list(client.list_models()) == []
    return [fresh, fresh.split("_", 2)[2], good, good.split(".")[2], expired, wrong, "x" * 40]


def test_the_tracking_servers_credentials_reach_the_worker_and_not_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-2")
    settings = Settings(data_dir=tmp_path, mlflow_ui=True, database_url="postgresql://u:hush-3@h/d")
    worker, page = _processes(settings, None)
    assert worker._environment["MLFLOW_TRACKING_PASSWORD"] == "hush-1"
    assert worker._environment["PARETOPRESS_DATABASE_URL"] == "postgresql://u:hush-3@h/d"
    assert "hush" not in str(page._environment)
    assert "hush" not in " ".join([*worker._command, *page._command])
    assert page._command[page._command.index("--host") + 1] == "127.0.0.1"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://someone:secret@mlflow:5000/x?key=secret", "http://mlflow:5000/x"),
        ("postgresql://u:secret@h/d", "postgresql://h/d"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert _without_password(url) == shown
