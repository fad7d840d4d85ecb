"""JSON web tokens of an identity provider (OIDC): signature, times, issuer and audience checked, claims read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from service.access.principal import Principal, Scope
from service.access.signing_keys import ALGORITHMS, SigningKeys
from service.errors import PermissionDeniedError, UnauthenticatedError

LEEWAY_S = 30
"""How far the clocks of the provider and the server may be apart."""
_SCOPES = {scope.name.lower(): scope for scope in Scope}


@dataclass(frozen=True)
class JwtRules:
    """What a token must say, and in which claims it says whose it is."""

    issuer: str
    audience: str
    project_claim: str
    scope_claim: str


@dataclass(frozen=True)
class VerifiedJwt:
    """A token that was checked, and the second since the epoch at which it ends."""

    principal: Principal
    expire_time: float


class JwtVerifier:
    """Checks tokens against a provider's keys."""

    def __init__(self, keys: SigningKeys, rules: JwtRules) -> None:
        self._keys = keys
        self._rules = rules

    async def verify(self, text: str) -> VerifiedJwt:
        """Check a token.

        Raises:
            UnauthenticatedError: it is no good token.
            PermissionDeniedError: it is, but gives no project or no scope.
            KeysUnavailableError: nobody can say now.
        """
        claims = await self._claims(text)
        projects = frozenset(_words(claims.get(self._rules.project_claim)))
        scopes = [_SCOPES[word] for word in map(_bare, _words(claims.get(self._rules.scope_claim))) if word in _SCOPES]
        if not projects or not scopes:
            missing = self._rules.scope_claim if projects else self._rules.project_claim
            raise PermissionDeniedError(f"the token's claim {missing!r} gives nothing here; have the identity provider set it")
        # The subject is a text of the provider's users; in a line of a log it must stay one.
        subject = re.sub(r"[^!-~]", "?", str(claims["sub"])[:100])
        return VerifiedJwt(Principal(f"jwt:{subject}", projects, max(scopes)), float(claims["exp"]))

    async def _claims(self, text: str) -> Mapping[str, Any]:
        try:
            header = jwt.get_unverified_header(text)
        except jwt.PyJWTError:
            raise UnauthenticatedError("the token is neither an API token (pp_...) nor a JSON web token") from None
        if header.get("alg") not in ALGORITHMS:
            raise UnauthenticatedError(f"the JSON web token must be signed with one of {', '.join(ALGORITHMS)}")
        key = await self._keys.find(str(header.get("kid", ""))[:200])
        if key is None or key.algorithm != header["alg"]:
            raise UnauthenticatedError("the JSON web token is signed with a key that the identity provider does not have")
        try:
            return jwt.decode(
                text,
                key.key,
                algorithms=[key.algorithm],
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("the JSON web token has expired; get a new one from the identity provider") from None
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise UnauthenticatedError(f"the JSON web token is not good here: {type(error).__name__}") from None


def _words(claim: Any) -> list[str]:
    if isinstance(claim, str):
        return claim.split()
    return [word for word in claim if isinstance(word, str)] if isinstance(claim, list) else []


def _bare(scope: str) -> str:
    """Providers like scopes with a prefix."""
    return scope.removeprefix("paretopress:")
