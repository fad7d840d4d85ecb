"""How a client connects: with which certificates, and with which token."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from paretopress.errors import ClientError

SYSTEM_CERTIFICATES = "system"
"""Instead of a file: the authorities that gRPC brings along."""


class CredentialsError(ClientError):
    """The credentials cannot be used, or would be given away."""


@dataclass(frozen=True)
class Credentials:
    """What a client connects with.

    Attributes:
        token: an API token or a JSON web token.
        ca_certificate: PEM file of the authority that signed the server's certificate, or ``system``; empty for no TLS.
        client_certificate, client_key: PEM files, for servers that ask for a certificate (mTLS).
        insecure: send a token without TLS to another machine all the same.
    """

    token: str = field(default="", repr=False)
    ca_certificate: Path | str = ""
    client_certificate: Path | str = ""
    client_key: Path | str = ""
    insecure: bool = False

    def channel(self, address: str, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
        """A connection to ``host:port``.

        Raises:
            CredentialsError: a file cannot be read, or the token would travel in the clear.
        """
        self._check(address)
        if self.ca_certificate:
            channel = grpc.secure_channel(address, self._tls(), list(options))
        else:
            channel = grpc.insecure_channel(address, list(options))
        return grpc.intercept_channel(channel, _BearerToken(self.token)) if self.token else channel

    def _check(self, address: str) -> None:
        if bool(self.client_certificate) != bool(self.client_key):
            raise CredentialsError("a client certificate and its key go together")
        if self.client_certificate and not self.ca_certificate:
            raise CredentialsError("a client certificate needs TLS: give the CA certificate too (a file, or `system`)")
        if not self.token.isascii() or not self.token.isprintable() or " " in self.token:
            raise CredentialsError("the token has characters that no token has; was it copied whole?")
        if self.token and not self.ca_certificate and not self.insecure and not is_local(address):
            words = f"the token would travel unencrypted to {address}, where others can read it"
            raise CredentialsError(f"{words}; give the server's CA certificate (a file, or `system`), or say `insecure`")

    def _tls(self) -> grpc.ChannelCredentials:
        root = None if self.ca_certificate == SYSTEM_CERTIFICATES else _read(self.ca_certificate)
        key = _read(self.client_key) if self.client_key else None
        chain = _read(self.client_certificate) if self.client_certificate else None
        return grpc.ssl_channel_credentials(root, key, chain)


def is_local(address: str) -> bool:
    """Whether an address leads to this machine only."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    text = address.removeprefix("dns:///").removeprefix("ipv4:").removeprefix("ipv6:")
    if "," in text:
        return False
    host = text[1:].partition("]")[0] if text.startswith("[") else text.rpartition(":")[0] or text
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CredentialsError(f"{path} cannot be read: {error.strerror}") from error


class _CallDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _BearerToken(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg]
):
    """Sends a token with every call."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """Add the token."""
        return continuation(self._with_token(details), request)

    def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        """Add the token."""
        return continuation(self._with_token(details), request)

    def intercept_stream_unary(self, continuation: Callable[..., Any], details: Any, requests: Iterator[Any]) -> Any:
        """Add the token."""
        return continuation(self._with_token(details), requests)

    def intercept_stream_stream(self, continuation: Callable[..., Any], details: Any, requests: Iterator[Any]) -> Any:
        """Add the token."""
        return continuation(self._with_token(details), requests)

    def _with_token(self, details: Any) -> Any:
        metadata = (*(details.metadata or ()), self._header)
        return _CallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready, details.compression
        )
