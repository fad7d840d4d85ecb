"""The server's certificate, read again whenever its files change, so that a renewed one needs no restart."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc

from service.errors import ServiceError
from service.settings import Settings

_LOG = logging.getLogger("paretopress.tls")
_Stamp = tuple[tuple[int, int, int], ...]


class TlsFilesError(ServiceError):
    """Certificate, key or authority cannot be used; never says what is in them."""


@dataclass(frozen=True)
class TlsFiles:
    """Where they lie. With ``client_ca``, only clients with a certificate of that authority are let in (mTLS)."""

    certificate: Path
    private_key: Path
    client_ca: Path | None = None

    @staticmethod
    def of(settings: Settings) -> TlsFiles | None:
        """What the settings name; None without TLS."""
        if settings.tls_certificate is None or settings.tls_private_key is None:
            return None
        return TlsFiles(settings.tls_certificate, settings.tls_private_key, settings.tls_client_ca)

    def stamp(self) -> _Stamp:
        """Changes when a file does."""
        paths = [self.certificate, self.private_key, *([self.client_ca] if self.client_ca else [])]
        return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in (path.stat() for path in paths))

    def read(self) -> grpc.ServerCertificateConfiguration:
        """The files as gRPC wants them.

        Raises:
            TlsFilesError: one cannot be read, or key and certificate do not belong together.
        """
        try:
            _check_pair(self)
            pair = (self.private_key.read_bytes(), self.certificate.read_bytes())
            authority = self.client_ca.read_bytes() if self.client_ca else None
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or type(error).__name__
            words = f"TLS: {self.certificate} and {self.private_key} cannot be used ({reason})"
            raise TlsFilesError(f"{words}; both must be PEM, the key without a password and of that certificate") from None
        return grpc.ssl_server_certificate_configuration([pair], authority)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow the files.

    Raises:
        TlsFilesError: they cannot be used now.
    """
    follower = _Follower(files)
    # The stubs do not know that None means "as before".
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", follower)
    return grpc.dynamic_ssl_server_credentials(follower.first, fetch, require_client_authentication=files.client_ca is not None)


class _Follower:
    """Called by gRPC at every handshake, in threads of its own. Files that do not fit together (a renewal has only got half
    way) leave the old ones in use.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = files.stamp() if _exist(files) else ()
        self._lock = threading.Lock()
        self.first = files.read()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            try:
                stamp = self._files.stamp()
                if stamp == self._stamp:
                    return None
                self._stamp = stamp
                changed = self._files.read()
            except (OSError, TlsFilesError) as error:
                _LOG.error("the changed TLS files are not taken, the old ones stay in use: %s", error)
                return None
        _LOG.info("took the changed TLS files")
        return changed


def _exist(files: TlsFiles) -> bool:
    return files.certificate.exists() and files.private_key.exists() and (files.client_ca is None or files.client_ca.exists())


def _check_pair(files: TlsFiles) -> None:
    # An encrypted key would make OpenSSL ask on the terminal; an empty password makes it fail instead.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.private_key, password=lambda: "")
    if files.client_ca is not None:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(files.client_ca)
