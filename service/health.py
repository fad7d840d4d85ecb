"""``python -m service.health``: asks the server of these settings whether it serves; exit status 0 if so. For HEALTHCHECK.

It is the standard ``grpc.health.v1`` over the server's own port, which nobody has to log in for. With TLS, it trusts the
certificate that the settings name and nothing else; where the server asks for one (mTLS), ``PARETOPRESS_CLIENT_CERTIFICATE`` and
``PARETOPRESS_CLIENT_KEY`` are shown, as the command line does.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Any

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from paretopress.credentials import Credentials
from paretopress.errors import ClientError
from service.settings import Settings

_TIMEOUT_S = 10.0


def address_of(settings: Settings) -> str:
    """Where this machine reaches the server."""
    try:
        host = ipaddress.ip_address(settings.host)
    except ValueError:
        return f"{settings.host}:{settings.port}"
    if host.is_unspecified:
        host = ipaddress.ip_address("127.0.0.1" if host.version == 4 else "::1")
    return f"{host}:{settings.port}" if host.version == 4 else f"[{host}]:{settings.port}"


def ask(settings: Settings) -> str:
    """Nothing if the server serves, else why not."""
    if settings.tls_client_ca and not os.environ.get("PARETOPRESS_CLIENT_CERTIFICATE"):
        return "the server asks for a client certificate: set PARETOPRESS_CLIENT_CERTIFICATE and PARETOPRESS_CLIENT_KEY"
    try:
        with _channel(settings) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
    except grpc.RpcError as error:
        return f"{address_of(settings)} does not answer: {error.code().name}: {error.details()}"
    except (ClientError, OSError, ValueError) as error:
        return str(error)
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return "" if name == "SERVING" else f"{name}; the log says why"


def _channel(settings: Settings) -> grpc.Channel:
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if not settings.tls_certificate:
        return Credentials().channel(address_of(settings), options)
    name = _name_in(settings.tls_certificate.read_bytes())
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    shown, key = (os.environ.get(f"PARETOPRESS_CLIENT_{part}", "") for part in ("CERTIFICATE", "KEY"))
    credentials = Credentials(ca_certificate=settings.tls_certificate, client_certificate=shown, client_key=key)
    return credentials.channel(address_of(settings), options)


def _name_in(certificate: bytes) -> str:
    """A name that the certificate is for: it was made for those outside, not for this machine's loopback."""
    try:
        names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return found[0].replace("*", "any", 1) if found else ""


def main() -> int:
    """Command line entry; settings come from the environment."""
    problem = ask(Settings())
    print(problem or "SERVING", file=sys.stderr if problem else sys.stdout)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
