"""Making API tokens, for the rpc and for ``python -m service.admin``."""

from __future__ import annotations

from service.access.tokens import ApiToken
from service.converters.access import TokenRequest
from service.store.access_store import AccessStore, NewToken, StoredToken


def grant_token(store: AccessStore, request: TokenRequest, creator: str) -> tuple[StoredToken, ApiToken]:
    """A new token, stored; its secret is in the second part only."""
    token = ApiToken.fresh()
    new = NewToken(
        project=request.project,
        token_id=token.token_id,
        secret_sha256=token.secret_sha256,
        scope=request.scope,
        display_name=request.display_name,
        all_projects=request.all_projects,
        creator=creator,
        expire_time=request.expire_time,
    )
    return store.add(new), token
