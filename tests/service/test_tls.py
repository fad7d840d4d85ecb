"""TLS and mTLS with real certificates."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from paretopress.client import Client
from paretopress.errors import RequestRefusedError
from service.access.setup import ContradictingSettingsError, InsecureSettingsError, check_exposure
from service.settings import Settings
from service.testing import InProcessServer
from service.tls import TlsFiles, TlsFilesError, server_credentials
from tests.service.callers import secret
from tests.service.fakes import FakeImporter


@dataclass(frozen=True)
class Pki:
    """An authority and its files."""

    authority: trustme.CA
    folder: Path

    def issue(self, name: str, *identities: str, common_name: str | None = None) -> dict[str, Path]:
        """Write a certificate and its key, as one renewal would: by renaming."""
        made = self.authority.issue_cert(*identities, common_name=common_name)
        return self._write(name, b"".join(blob.bytes() for blob in made.cert_chain_pems), made.private_key_pem.bytes())

    def issue_uri(self, name: str, uri: str) -> dict[str, Path]:
        """The same for a workload's URI, which trustme does not know."""
        issuer = x509.load_pem_x509_certificate(self.authority.cert_pem.bytes())
        issuer_key = load_pem_private_key(self.authority.private_key_pem.bytes(), None)
        assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        builder = x509.CertificateBuilder(issuer.subject, x509.Name([]), key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
        certificate = builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)
        return self._write(name, certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def _write(self, name: str, certificate: bytes, key: bytes) -> dict[str, Path]:
        paths = {"certificate": self.folder / f"{name}.pem", "key": self.folder / f"{name}.key"}
        for path, content in zip(paths.values(), (certificate, key), strict=True):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(content)
            os.replace(fresh, path)
        return paths

    @property
    def ca(self) -> Path:
        path = self.folder / "ca.pem"
        if not path.exists():
            self.authority.cert_pem.write_to_path(path)
        return path


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(trustme.CA(), tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Pki:
    (tmp_path / "other").mkdir()
    return Pki(trustme.CA(), tmp_path / "other")


def tls(pki: Pki) -> dict[str, Any]:
    files = pki.issue("server", "127.0.0.1")
    return {"tls_certificate": files["certificate"], "tls_private_key": files["key"]}


@pytest.fixture
def mutual(pki: Pki, tmp_path: Path) -> Iterator[InProcessServer]:
    principals = {"spiffe://acme/trainer": "vision:write", "dashboard": "vision:read"}
    settings = {**tls(pki), "tls_client_ca": pki.ca, "auth": "tokens", "certificate_principals": principals}
    with InProcessServer(tmp_path / "data", FakeImporter(), **settings) as server:
        yield server


def refused(client: Client) -> grpc.StatusCode:
    with client, pytest.raises(RequestRefusedError) as error:
        list(client.list_models())
    return error.value.code


def test_tls(pki: Pki, other: Pki, tmp_path: Path) -> None:
    with InProcessServer(tmp_path / "data", FakeImporter(), **tls(pki), auth="tokens") as server:
        options = {"project": "projects/p", "token": secret(server, "p")}
        with server.client(ca_certificate=pki.ca, **options) as client:
            assert list(client.list_models()) == []
        assert refused(server.client(ca_certificate=other.ca, retry_s=0.0, **options)) is grpc.StatusCode.UNAVAILABLE
        assert refused(server.client(retry_s=0.0, **options)) is grpc.StatusCode.UNAVAILABLE
        assert refused(server.client(ca_certificate=pki.ca)) is grpc.StatusCode.UNAUTHENTICATED


def test_a_renewed_certificate_is_taken_without_a_restart(pki: Pki, tmp_path: Path) -> None:
    with InProcessServer(tmp_path / "data", FakeImporter(), **tls(pki)) as server:
        host, port = server.address.split(":")
        seen = {ssl.get_server_certificate((host, int(port)))}
        pki.issue("server", "127.0.0.1")
        seen.add(ssl.get_server_certificate((host, int(port))))
        (pki.folder / "server.key").write_text("half of a renewal")
        seen.add(ssl.get_server_certificate((host, int(port))))
        with server.client(ca_certificate=pki.ca) as client:
            assert list(client.list_models()) == []
    assert len(seen) == 2


def test_with_mtls_a_certificate_is_a_caller(mutual: InProcessServer, pki: Pki) -> None:
    cases = {
        "trainer": pki.issue_uri("trainer", "spiffe://acme/trainer"),
        "dashboard": pki.issue("dashboard", "x.acme", common_name="dashboard"),
        "unknown": pki.issue("unknown", "y.acme", common_name="somebody"),
        "pretender": pki.issue("pretender", "z.acme", common_name="spiffe://acme/trainer"),
    }
    codes = {}
    for name, files in cases.items():
        options = {"client_certificate": files["certificate"], "client_key": files["key"], "ca_certificate": pki.ca}
        with mutual.client(project="projects/vision", **options) as client:
            codes[name] = (code(client, "list_models"), code(client, "list_tokens"))
        with mutual.client(project="projects/audio", **options) as client:
            codes[name] += (code(client, "list_models"),)
        with mutual.client(project="projects/audio", token=secret(mutual, "audio"), **options) as client:
            assert code(client, "list_tokens") is grpc.StatusCode.OK, "a token counts more than the certificate"
    assert codes["trainer"] == codes["dashboard"]
    assert codes["trainer"] == (grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND)
    assert set(codes["unknown"]) == set(codes["pretender"]) == {grpc.StatusCode.UNAUTHENTICATED}


def code(client: Client, method: str) -> grpc.StatusCode:
    """How a listing ends."""
    try:
        list(getattr(client, method)())
    except RequestRefusedError as error:
        return error.code
    return grpc.StatusCode.OK


def test_with_mtls_nobody_connects_without_a_certificate_of_the_authority(mutual: InProcessServer, pki: Pki, other: Pki) -> None:
    token, stranger = secret(mutual, "p"), other.issue_uri("stranger", "spiffe://acme/trainer")
    options = {"project": "projects/p", "token": token, "ca_certificate": pki.ca, "retry_s": 0.0}
    assert refused(mutual.client(**options)) is grpc.StatusCode.UNAVAILABLE
    foreign = {"client_certificate": stranger["certificate"], "client_key": stranger["key"]}
    assert refused(mutual.client(**options, **foreign)) is grpc.StatusCode.UNAVAILABLE


def test_files_that_do_not_belong_together_are_refused_without_their_content(pki: Pki, other: Pki) -> None:
    mine, theirs = pki.issue("a", "127.0.0.1"), other.issue("b", "127.0.0.1")
    with pytest.raises(TlsFilesError) as error:
        server_credentials(TlsFiles(mine["certificate"], theirs["key"]))
    assert "PRIVATE KEY" not in str(error.value)
    with pytest.raises(TlsFilesError, match="No such file"):
        server_credentials(TlsFiles(mine["certificate"], pki.folder / "none.key"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "PARETOPRESS_AUTH=tokens"),
        ({"auth": "tokens"}, "PARETOPRESS_TLS_CERTIFICATE"),
        ({"tls_certificate": "c", "tls_private_key": "k"}, "PARETOPRESS_AUTH=tokens"),
    ],
)
def test_a_public_address_needs_tls_and_authentication(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InsecureSettingsError, match=said):
        check_exposure(Settings(host="0.0.0.0", **settings))
    warnings = check_exposure(Settings(host="0.0.0.0", allow_insecure=True, **settings))
    assert warnings
    assert all(line.startswith("INSECURE") for line in warnings)
    assert check_exposure(Settings(host="127.0.0.1", **settings)) == []


def test_a_protected_public_address_is_fine() -> None:
    assert check_exposure(Settings(host="::", auth="tokens", tls_certificate="c", tls_private_key="k")) == []


def test_the_page_of_mlflow_beyond_loopback_is_asked_for_twice_and_loud() -> None:
    safe = {"host": "0.0.0.0", "auth": "tokens", "tls_certificate": "c", "tls_private_key": "k", "mlflow_host": "0.0.0.0"}
    with pytest.raises(InsecureSettingsError, match="MLFLOW_HOST"):
        check_exposure(Settings(**safe, mlflow_ui=True))
    (warning,) = check_exposure(Settings(**safe, mlflow_ui=True, allow_insecure=True))
    assert "nobody has to log in" in warning
    assert check_exposure(Settings(**safe)) == [], "no page is shown"
    assert check_exposure(Settings(**safe, mlflow_ui=True, mlflow_tracking_uri="http://mlflow.example")) == [], "none of ours"


def test_a_server_that_would_be_open_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(InsecureSettingsError), InProcessServer(tmp_path / "data", FakeImporter(), host="0.0.0.0"):
        pass


def test_an_open_server_says_so_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with InProcessServer(tmp_path / "data", FakeImporter(), host="0.0.0.0", allow_insecure=True):
        loud = [record for record in caplog.records if record.levelname == "WARNING" and "INSECURE" in record.getMessage()]
    assert len(loud) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tls_certificate": "c"}, "TLS_CERTIFICATE and TLS_PRIVATE_KEY"),
        ({"tls_client_ca": "c"}, "TLS_CLIENT_CA needs"),
        ({"auth": "tokens", "certificate_principals": {"a": "p:read"}}, "CERTIFICATE_PRINCIPALS needs TLS_CLIENT_CA"),
        ({"certificate_principals": {"a": "p:everything"}}, "project:read"),
        ({"jwt_issuer": "i", "jwt_audience": "a", "jwt_public_key": "k"}, "JWT_... needs AUTH=tokens"),
        ({"auth": "tokens", "jwt_issuer": "i", "jwt_public_key": "k"}, "JWT_AUDIENCE"),
        ({"auth": "tokens", "jwt_issuer": "i", "jwt_audience": "a"}, "one of JWT_JWKS_URL"),
        ({"auth": "tokens", "jwt_issuer": "i", "jwt_audience": "a", "jwt_jwks_url": "http://idp.example/keys"}, "must be https"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ContradictingSettingsError, match=said):
        check_exposure(Settings(**settings))
