"""AccessService."""

from __future__ import annotations

import asyncio
from typing import Any

from paretopress.v1 import access_pb2, access_pb2_grpc
from service.access.granting import grant_token
from service.access.principal import current_principal
from service.converters.access import token_from_proto, token_to_proto
from service.errors import PermissionDeniedError
from service.resources import ProjectName, TokenName
from service.store.access_store import AccessStore
from service.store.pages import PageRequest


class AccessServicer(access_pb2_grpc.AccessServiceServicer):
    """Thin. That the caller is an administrator of the project has been checked; whether of all, is asked here."""

    def __init__(self, tokens: AccessStore) -> None:
        self._tokens = tokens

    async def CreateToken(self, request: access_pb2.CreateTokenRequest, context: Any) -> access_pb2.CreateTokenResponse:
        """Make one."""
        asked, caller = token_from_proto(request), current_principal.get()
        if asked.all_projects and not caller.has_all_projects:
            raise PermissionDeniedError(f"{caller.id} does not have every project itself; leave all_projects out")
        stored, token = await asyncio.to_thread(grant_token, self._tokens, asked, caller.id)
        return access_pb2.CreateTokenResponse(token=token_to_proto(stored), secret=token.text)

    async def ListTokens(self, request: access_pb2.ListTokensRequest, context: Any) -> access_pb2.ListTokensResponse:
        """A page, newest first."""
        parent = ProjectName.from_name(request.parent, "parent")
        asked = PageRequest.parse(request.page_size, request.page_token, f"tokens of {parent.name}")
        with_all = current_principal.get().has_all_projects
        page = await asyncio.to_thread(self._tokens.list, parent.project, asked, with_all)
        return access_pb2.ListTokensResponse(tokens=map(token_to_proto, page.items), next_page_token=page.next_page_token)

    async def RevokeToken(self, request: access_pb2.RevokeTokenRequest, context: Any) -> access_pb2.Token:
        """End one."""
        name, with_all = TokenName.from_name(request.name), current_principal.get().has_all_projects
        return token_to_proto(await asyncio.to_thread(self._tokens.revoke, name, with_all))
