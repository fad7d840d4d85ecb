"""The settings of access, checked against each other, and what they make."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.access.audit import AuditLog
from service.access.authenticator import Authenticator, Everybody, KnownCallers
from service.access.json_web_tokens import JwtRules, JwtVerifier
from service.access.principal import ALL_PROJECTS, Principal, Scope
from service.access.rates import CallRate, OpenStreams
from service.access.signing_keys import KeyFile, KeySet, SigningKeys
from service.access.token_verifier import TokenVerifier
from service.errors import ServiceError
from service.resources import is_resource_id
from service.settings import Settings
from service.store.access_store import AccessStore
from service.store.quotas import Quotas


class InsecureSettingsError(ServiceError):
    """The settings would leave the server open to others; the message says what to set."""


class ContradictingSettingsError(ServiceError):
    """Settings of access that cannot be together, or mean nothing alone."""


@dataclass(frozen=True)
class Gate:
    """What a call passes before it is answered."""

    authenticator: Authenticator
    rate: CallRate
    streams: OpenStreams
    audit: AuditLog

    async def close(self) -> None:
        """Let work under way end."""
        await self.authenticator.stop()
        self.audit.close()


def make_gate(settings: Settings, store: AccessStore) -> Gate:
    """The gate that the settings ask for.

    Raises:
        ContradictingSettingsError, KeyFileError: they cannot be.
    """
    audit = AuditLog(settings.audit_dir, settings.audit_retention_days)
    return Gate(_authenticator(settings, store), CallRate(settings.rate_calls_per_s), OpenStreams(settings.max_streams), audit)


def quotas_of(settings: Settings) -> Quotas:
    """What each project may use."""
    return Quotas(settings.quota_stored_bytes, settings.quota_concurrent_searches, settings.quota_trial_hours)


def check_exposure(settings: Settings) -> list[str]:
    """What should be logged loudly at every start; nothing where the server is safe.

    Raises:
        InsecureSettingsError: others could reach the server without TLS or without authentication, and nobody said that they may.
        ContradictingSettingsError: settings that cannot be together.
    """
    _check_pairs(settings)
    found = [*_unprotected_calls(settings), *_unprotected_page(settings)]
    if found and not settings.allow_insecure:
        words = "Set what stands in brackets, or PARETOPRESS_ALLOW_INSECURE=true if only those get there who may"
        raise InsecureSettingsError(f"{'; and '.join(found)}. {words}")
    return [f"INSECURE: {words}" for words in found]


def _unprotected_calls(settings: Settings) -> Iterator[str]:
    if is_loopback(settings.host):
        return
    reached = f"PARETOPRESS_HOST={settings.host} can be reached from other machines"
    if not settings.tls_certificate:
        words = "tokens and models can be read on their way (PARETOPRESS_TLS_CERTIFICATE, _TLS_PRIVATE_KEY)"
        yield f"{reached} without TLS: {words}"
    if settings.auth == "none":
        yield f"{reached} without authentication: everybody who gets there may do everything (PARETOPRESS_AUTH=tokens)"


def _unprotected_page(settings: Settings) -> Iterator[str]:
    if settings.shows_mlflow and not is_loopback(settings.mlflow_host):
        words = "nobody has to log in there, whatever PARETOPRESS_AUTH says, and everybody may read and delete what is in it"
        yield f"PARETOPRESS_MLFLOW_HOST={settings.mlflow_host} can be reached from other machines: {words} (an MLflow of your own)"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def certificate_principals(settings: Settings) -> Mapping[str, Principal]:
    """Who the names in client certificates are.

    Raises:
        ContradictingSettingsError: an entry is not ``project:scope``.
    """
    return {name: _certificate_principal(name, grant) for name, grant in settings.certificate_principals.items()}


def _certificate_principal(name: str, grant: str) -> Principal:
    project, _, scope = grant.partition(":")
    if scope.upper() not in Scope.__members__ or not (project == ALL_PROJECTS or is_resource_id(project)):
        words = f"PARETOPRESS_CERTIFICATE_PRINCIPALS: {name!r} must be given project:read, project:write or project:admin"
        raise ContradictingSettingsError(f"{words} (* for every project), got {grant!r}")
    return Principal(f"certificate:{name}", frozenset({project}), Scope[scope.upper()])


def _authenticator(settings: Settings, store: AccessStore) -> Authenticator:
    if settings.auth == "none":
        return Everybody()
    return KnownCallers(TokenVerifier(store), _web_tokens(settings), certificate_principals(settings))


def _web_tokens(settings: Settings) -> JwtVerifier | None:
    if not settings.jwt_issuer:
        return None
    keys: SigningKeys = KeyFile(settings.jwt_public_key) if settings.jwt_public_key else KeySet(settings.jwt_jwks_url)
    claims = (settings.jwt_project_claim, settings.jwt_scope_claim)
    return JwtVerifier(keys, JwtRules(settings.jwt_issuer, settings.jwt_audience, *claims))


def _check_pairs(settings: Settings) -> None:
    certificate_principals(settings)
    web = {"JWT_ISSUER": settings.jwt_issuer, "JWT_AUDIENCE": settings.jwt_audience}
    keys = {"JWT_JWKS_URL": settings.jwt_jwks_url, "JWT_PUBLIC_KEY": settings.jwt_public_key}
    asks_web = any(web.values()) or any(keys.values())
    rules = (
        (bool(settings.tls_certificate) != bool(settings.tls_private_key), "TLS_CERTIFICATE and TLS_PRIVATE_KEY go together"),
        (settings.tls_client_ca and not settings.tls_certificate, "TLS_CLIENT_CA needs TLS_CERTIFICATE and TLS_PRIVATE_KEY"),
        (settings.certificate_principals and not settings.tls_client_ca, "CERTIFICATE_PRINCIPALS needs TLS_CLIENT_CA"),
        (settings.certificate_principals and settings.auth == "none", "CERTIFICATE_PRINCIPALS needs AUTH=tokens"),
        (asks_web and settings.auth == "none", "JWT_... needs AUTH=tokens"),
        (asks_web and not all(web.values()), "JWT_ISSUER and JWT_AUDIENCE go together"),
        (asks_web and sum(map(bool, keys.values())) != 1, "JWT_... needs one of JWT_JWKS_URL and JWT_PUBLIC_KEY"),
        (settings.jwt_jwks_url and not _is_safe_url(settings.jwt_jwks_url), "JWT_JWKS_URL must be https (http on loopback only)"),
    )
    broken = [words for wrong, words in rules if wrong]
    if broken:
        raise ContradictingSettingsError(f"settings (each with the prefix PARETOPRESS_): {'; '.join(broken)}")


def _is_safe_url(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
