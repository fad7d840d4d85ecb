"""From what a call carries (a bearer token, a client certificate) to who calls."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from service.access.json_web_tokens import LEEWAY_S, JwtVerifier, VerifiedJwt
from service.access.principal import ANONYMOUS, Principal
from service.access.token_verifier import REMEMBERED_S, TokenVerifier
from service.access.tokens import PREFIX, ApiToken
from service.errors import UnauthenticatedError

_MOST_REMEMBERED = 10_000
_MOST_CHARACTERS = 16_384


@dataclass(frozen=True)
class Credentials:
    """What a call carries.

    Attributes:
        authorization: every value of that header.
        certificate_names: common name and URIs of the client's certificate; only filled where TLS has checked it.
    """

    authorization: tuple[str, ...] = field(default=(), repr=False)
    certificate_names: tuple[str, ...] = ()


class Authenticator(ABC):
    """Says who calls. For one event loop."""

    @abstractmethod
    async def authenticate(self, credentials: Credentials) -> Principal:
        """Who calls.

        Raises:
            UnauthenticatedError: nobody who is known.
            StoreUnavailableError, KeysUnavailableError: nobody can say now; never taken for a yes.
        """

    async def stop(self) -> None:
        """Let work under way end."""
        return


class Everybody(Authenticator):
    """No authentication: whoever reaches the server may do everything."""

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Always the same one."""
        return ANONYMOUS


class KnownCallers(Authenticator):
    """API tokens, JSON web tokens where an identity provider is configured, and certificates that stand for somebody.

    A token counts more than the certificate of the connection: proxies have one certificate for many callers.
    """

    def __init__(self, tokens: TokenVerifier, web_tokens: JwtVerifier | None, certificates: Mapping[str, Principal]) -> None:
        self._tokens = tokens
        self._web_tokens = web_tokens
        self._certificates = dict(certificates)
        self._remembered = RememberedTokens()

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Who calls."""
        if credentials.authorization:
            return await self._bearer(_bearer_text(credentials.authorization))
        for name in credentials.certificate_names:
            if name in self._certificates:
                return self._certificates[name]
        raise UnauthenticatedError("the call carries no token; send `authorization: Bearer ...`, or set PARETOPRESS_TOKEN")

    async def stop(self) -> None:
        """Let the notes of uses end."""
        await self._tokens.stop()

    async def _bearer(self, text: str) -> Principal:
        if text.startswith(PREFIX):
            token = ApiToken.parse(text)
            if token is None:
                raise UnauthenticatedError("the API token is incomplete; it looks like pp_<12 digits>_<43 characters>")
            return await self._tokens.verify(token)
        if self._web_tokens is None:
            raise UnauthenticatedError("this server takes API tokens (pp_...) only")
        known = self._remembered.get(text)
        if known is None:
            known = await self._web_tokens.verify(text)
            self._remembered.put(text, known)
        return known.principal


class RememberedTokens:
    """JSON web tokens that were checked a moment ago; they are known by their digest."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: dict[bytes, tuple[float, VerifiedJwt]] = {}

    def get(self, text: str) -> VerifiedJwt | None:
        """What it was found to be, if that was a moment ago and it has not expired since."""
        checked, verified = self._known.get(_digest(text), (0.0, None))
        now = self._clock()
        fresh = verified is not None and abs(now - checked) < REMEMBERED_S and now < verified.expire_time + LEEWAY_S
        return verified if fresh else None

    def put(self, text: str, verified: VerifiedJwt) -> None:
        """Remember one."""
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[_digest(text)] = (self._clock(), verified)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _bearer_text(values: tuple[str, ...]) -> str:
    kind, _, text = values[0].partition(" ")
    if len(values) > 1 or kind.lower() != "bearer" or not text or len(text) > _MOST_CHARACTERS:
        raise UnauthenticatedError("send one header `authorization: Bearer` with one token")
    return text.strip()
