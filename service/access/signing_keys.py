"""Public keys that sign JSON web tokens: from a file, or from the identity provider's JWKS address."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from service.errors import KeysUnavailableError, ServiceError

_LOG = logging.getLogger("paretopress.access")
ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""Asymmetric ones only: with a shared secret, whoever can check a token could make one."""
_FRESH_S, _USABLE_S, _FETCH_EVERY_S = 600.0, 3600.0, 10.0
_TIMEOUT_S, _MOST_BYTES = 5.0, 1 << 20


class KeyFileError(ServiceError):
    """The file of the public key cannot be used."""


@dataclass(frozen=True)
class SigningKey:
    """A public key and the one algorithm that goes with it."""

    key: Any
    algorithm: str


class SigningKeys(ABC):
    """Where keys come from."""

    @abstractmethod
    async def find(self, key_id: str) -> SigningKey | None:
        """The key of an id; None if there is none.

        Raises:
            KeysUnavailableError: nobody can say now.
        """


class KeyFile(SigningKeys):
    """One key in a PEM file; ids mean nothing.

    Raises:
        KeyFileError: it cannot be read, or is a key of a kind that is not taken.
    """

    def __init__(self, path: Path) -> None:
        try:
            key = load_pem_public_key(path.read_bytes())
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"PARETOPRESS_JWT_PUBLIC_KEY={path} is no readable PEM public key") from error
        algorithm = _algorithm(key)
        if algorithm is None:
            raise KeyFileError(f"PARETOPRESS_JWT_PUBLIC_KEY={path} must be an RSA, P-256 or Ed25519 key")
        self._key = SigningKey(key, algorithm)

    async def find(self, key_id: str) -> SigningKey:
        """The key."""
        return self._key


class KeySet(SigningKeys):
    """Keys behind a JWKS address, fetched in a thread and kept.

    They are fetched again after 10 minutes, and at once for an id that is not among them, but never more often than every 10
    seconds. While the address does not answer, known keys are good for an hour.

    Args:
        url: https, or http on loopback.
        clock: seconds that only grow.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: Mapping[str, SigningKey] = {}
        self._fetched: float | None = None
        self._asked: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> SigningKey | None:
        """The key of an id; an empty id means the only one there is."""
        known = self._known(key_id)
        if known is None or not self._is_younger(_FRESH_S):
            fetching = self._begin_to_fetch()
            # A known key that is merely due is taken meanwhile: the address may be slow.
            if fetching is not None and (known is None or not self._is_younger(_USABLE_S)):
                await asyncio.shield(fetching)
        if not self._is_younger(_USABLE_S):
            raise KeysUnavailableError("the keys of the identity provider cannot be fetched now; try again in a moment")
        return self._known(key_id)

    def _known(self, key_id: str) -> SigningKey | None:
        if not key_id and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _is_younger(self, age_s: float) -> bool:
        return self._fetched is not None and self._clock() - self._fetched < age_s

    def _begin_to_fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one; None if the last one was a moment ago."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now = self._clock()
        if self._asked is not None and now - self._asked < _FETCH_EVERY_S:
            return None
        self._asked = now
        # For all the calls that wait for it: neither a caller that goes away nor its deadline ends it.
        self._fetching = asyncio.create_task(self._fetch(now), context=Context())
        return self._fetching

    async def _fetch(self, now: float) -> None:
        try:
            self._keys = await asyncio.to_thread(_fetch, self._url)
            self._fetched = now
        except (OSError, ValueError, HTTPException) as error:
            _LOG.error("the keys at PARETOPRESS_JWT_JWKS_URL could not be fetched: %s", error)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An address that was checked must not lead to one that was not."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        """Follow none."""
        return


def _fetch(url: str) -> Mapping[str, SigningKey]:
    opener = urllib.request.build_opener(_NoRedirects)
    with opener.open(url, timeout=_TIMEOUT_S) as answer:
        text = answer.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError(f"the answer is larger than {_MOST_BYTES} bytes")
    document = json.loads(text)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("the answer is no JWKS")
    keys: dict[str, SigningKey] = {}
    for entry in entries:
        found = _signing_key(entry)
        if found is not None:
            keys[str(entry.get("kid", ""))] = found
    return keys


def _signing_key(entry: Any) -> SigningKey | None:
    """Other keys (for encryption, of other kinds) may stand in the same set."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK.from_dict(entry).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    algorithm = _algorithm(key)
    return SigningKey(key, algorithm) if algorithm and entry.get("alg", algorithm) == algorithm else None


def _algorithm(key: Any) -> str | None:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return "RS256"
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256"
    return "EdDSA" if isinstance(key, ed25519.Ed25519PublicKey) else None
