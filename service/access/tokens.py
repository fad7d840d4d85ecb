"""API tokens as text: ``pp_<id>_<secret>``.

The secret is 32 random bytes, so its digest is a plain sha256: slow hashes protect passwords that people can guess, and nobody
guesses 256 random bits. A slow one would only cost every call its time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

PREFIX = "pp_"
_FORM = re.compile(r"pp_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class ApiToken:
    """A token's public id and its secret."""

    token_id: str
    secret: str = field(repr=False)

    @staticmethod
    def fresh() -> ApiToken:
        """A new one."""
        return ApiToken(secrets.token_hex(6), secrets.token_urlsafe(32))

    @staticmethod
    def parse(text: str) -> ApiToken | None:
        """Read what a caller sent; None if it is no API token."""
        match = _FORM.fullmatch(text)
        return ApiToken(*match.groups()) if match else None

    @property
    def text(self) -> str:
        """What its bearer sends."""
        return f"{PREFIX}{self.token_id}_{self.secret}"

    @property
    def secret_sha256(self) -> str:
        """What the store keeps of the secret."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def matches(self, secret_sha256: str) -> bool:
        """Whether the secret has this digest; takes the same time for every wrong one."""
        return hmac.compare_digest(self.secret_sha256, secret_sha256)
