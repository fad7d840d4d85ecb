"""API tokens to protos and back."""

from __future__ import annotations

import time
from dataclasses import dataclass

from paretopress.v1 import access_pb2
from search.errors import FieldViolation
from service.access.principal import Scope
from service.converters.enums import seconds_of, timestamp
from service.converters.inputs import parse_parent
from service.errors import InvalidRequestError
from service.store.access_store import StoredToken

DAY_S = 24 * 3600.0
DEFAULT_LIFETIME_S, LONGEST_LIFETIME_S = 90 * DAY_S, 3660 * DAY_S
_MOST_CHARACTERS = 200
_SCOPES = {
    access_pb2.Token.READ: Scope.READ,
    access_pb2.Token.WRITE: Scope.WRITE,
    access_pb2.Token.ADMIN: Scope.ADMIN,
}
_NUMBERS = {scope: number for number, scope in _SCOPES.items()}


@dataclass(frozen=True)
class TokenRequest:
    """A valid request for a token."""

    project: str
    scope: Scope
    display_name: str
    all_projects: bool
    expire_time: float


def token_from_proto(request: access_pb2.CreateTokenRequest, now: float | None = None) -> TokenRequest:
    """Read a request.

    Raises:
        InvalidRequestError: with every bad field.
    """
    now = time.time() if now is None else now
    found: list[FieldViolation] = []
    project = parse_parent(request.parent, found).project
    token = request.token
    scope = _SCOPES.get(token.scope)
    if scope is None:
        found.append(FieldViolation("token.scope", "must be READ, WRITE or ADMIN"))
    if len(token.display_name) > _MOST_CHARACTERS:
        found.append(FieldViolation("token.display_name", f"must have at most {_MOST_CHARACTERS} characters"))
    given = token.HasField("expire_time")
    expire_time = seconds_of(token.expire_time) if given else now + DEFAULT_LIFETIME_S
    if not now < expire_time <= now + LONGEST_LIFETIME_S:
        found.append(FieldViolation("token.expire_time", "must be in the future, and at most ten years away"))
    if found or scope is None:
        raise InvalidRequestError(found)
    return TokenRequest(project, scope, token.display_name, token.all_projects, expire_time)


def token_to_proto(stored: StoredToken) -> access_pb2.Token:
    """A stored token; its secret is nowhere any more."""
    return access_pb2.Token(
        name=stored.name,
        display_name=stored.display_name,
        scope=_NUMBERS[stored.scope],
        all_projects=stored.all_projects,
        expire_time=timestamp(stored.expire_time),
        create_time=timestamp(stored.create_time),
        creator=stored.creator,
        last_use_time=timestamp(stored.last_use_time),
        revoke_time=timestamp(stored.revoke_time),
    )
