"""``python -m service.health``, as a container's HEALTHCHECK runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from service.health import address_of, ask
from service.settings import Settings
from service.testing import InProcessServer
from tests.service.fakes import FakeImporter
from tests.service.ports import free_port


def _files(authority: trustme.CA, folder: Path, name: str, identity: str) -> tuple[Path, Path]:
    issued = authority.issue_cert(identity)
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(paths[1])
    return paths


def _healthy(settings: dict[str, Any], data: Path) -> str:
    """What the check says of a server that serves with these settings."""
    port = free_port()
    with InProcessServer(data, FakeImporter(), port=port, **settings):
        return ask(Settings(port=port, **settings))


@pytest.mark.parametrize("identity", ["paretopress.example", "*.paretopress.example", "192.0.2.7"])
def test_with_tokens_and_a_certificate_for_another_name(identity: str, tmp_path: Path) -> None:
    certificate, key = _files(trustme.CA(), tmp_path, "server", identity)
    settings = {"host": "0.0.0.0", "auth": "tokens", "tls_certificate": certificate, "tls_private_key": key}
    assert _healthy(settings, tmp_path / "data") == ""


def test_with_client_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate, key = _files(authority, tmp_path, "server", "paretopress.example")
    settings = {"tls_certificate": certificate, "tls_private_key": key, "tls_client_ca": tmp_path / "ca.pem"}
    assert "PARETOPRESS_CLIENT_CERTIFICATE" in _healthy(settings, tmp_path / "data")
    shown = _files(authority, tmp_path, "client", "health@paretopress.example")
    monkeypatch.setenv("PARETOPRESS_CLIENT_CERTIFICATE", str(shown[0]))
    monkeypatch.setenv("PARETOPRESS_CLIENT_KEY", str(shown[1]))
    assert _healthy(settings, tmp_path / "data") == ""


def test_another_servers_certificate_is_not_trusted(tmp_path: Path) -> None:
    mine, theirs = (_files(trustme.CA(), tmp_path, name, "paretopress.example") for name in ("mine", "theirs"))
    port = free_port()
    with InProcessServer(tmp_path / "data", FakeImporter(), port=port, tls_certificate=mine[0], tls_private_key=mine[1]):
        assert "UNAVAILABLE" in ask(Settings(port=port, tls_certificate=theirs[0], tls_private_key=theirs[1]))


def test_the_command_tells_ready_from_not_ready_from_away(tmp_path: Path) -> None:
    def run(port: int) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PARETOPRESS_HOST": "0.0.0.0", "PARETOPRESS_PORT": str(port)}
        return subprocess.run([sys.executable, "-m", "service.health"], env=environment, capture_output=True, text=True)

    port = free_port()
    with InProcessServer(tmp_path / "data", FakeImporter(), port=port):
        assert (run(port).returncode, run(port).stdout) == (0, "SERVING\n")
    port = free_port()
    with InProcessServer(tmp_path / "data", FakeImporter(), port=port, readiness_needs_worker=True):
        done = run(port)
        assert done.returncode == 1
        assert "NOT_SERVING" in done.stderr
    assert "does not answer" in run(port).stderr


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1:7"), ("::", "[::1]:7"), ("192.0.2.1", "192.0.2.1:7"), ("2001:db8::1", "[2001:db8::1]:7"), ("a", "a:7")],
)
def test_the_address_is_one_that_can_be_called(host: str, address: str) -> None:
    assert address_of(Settings(host=host, port=7)) == address
