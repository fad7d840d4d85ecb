"""Lets a call in: who is it, may it do this, to this project, this often. Everything about it is in `service/access`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from grpc import aio

from service.access.authenticator import Credentials
from service.access.principal import current_principal
from service.access.rules import Rule, rule_of
from service.access.setup import Gate
from service.access.token_verifier import REMEMBERED_S
from service.interceptors.wrapping import Layer, remade

if TYPE_CHECKING:
    from service.interceptors.wrapping import Handler

current_resource: ContextVar[str] = ContextVar("current_resource", default="")
"""What the call is about: its name or parent, after a creation what was created."""


class AuthInterceptor(Layer):
    """Stands inside error translation and audit, outside of the decoding: nobody unknown learns what is wrong with a request."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def replaced(self, handler: Handler, method: str) -> Handler:
        """The handler behind the gate."""
        rule = rule_of(method)
        return handler if rule.is_open else self._guarded(handler, method, rule)

    def _guarded(self, handler: Handler, method: str, rule: Rule) -> Handler:
        streams = handler.request_streaming or handler.response_streaming

        async def unary(inner: Any, request: Any, context: Any) -> Any:
            async with self._let_in(method, rule, streams, context) as call:
                response = await inner(call.checked(request), context)
                call.note_answer(response)
                return response

        async def stream(inner: Any, request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._let_in(method, rule, streams, context) as call:
                async for response in inner(call.checked(request), context):
                    await call.check_again()
                    yield response

        return remade(handler, unary, stream)

    @asynccontextmanager
    async def _let_in(self, method: str, rule: Rule, streams: bool, context: Any) -> AsyncIterator[_Call]:
        call = _Call(self._gate, method, rule, credentials_of(context))
        await call.authenticate()
        caller = current_principal.get().id
        self._gate.rate.take(caller)
        if not streams:
            yield call
            return
        with self._gate.streams.held(caller):
            yield call


class _Call:
    """One call on its way through the gate."""

    def __init__(self, gate: Gate, method: str, rule: Rule, credentials: Credentials) -> None:
        self._gate = gate
        self._method = method
        self._rule = rule
        self._credentials = credentials
        self._checked_at = 0.0

    async def authenticate(self) -> None:
        """Who calls, and whether it may do such things at all."""
        principal = await self._gate.authenticator.authenticate(self._credentials)
        self._checked_at = time.monotonic()
        current_principal.set(principal)
        self._rule.check_scope(principal, self._method)

    async def check_again(self) -> None:
        """A stream lives long: its token may have been revoked or have expired since."""
        if time.monotonic() - self._checked_at > REMEMBERED_S:
            await self.authenticate()

    def checked(self, request: Any) -> Any:
        """The request, or the stream of requests, that names nothing of others."""
        return self._checked_stream(request) if hasattr(request, "__aiter__") else self._checked_one(request)

    def note_answer(self, response: Any) -> None:
        """What was created is what the call was about."""
        name = getattr(response, "name", "")
        if self._rule.changes and isinstance(name, str) and name:
            current_resource.set(name)

    async def _checked_stream(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        first = True
        async for request in requests:
            await self.check_again()
            yield self._checked_one(request) if first else request
            first = False

    def _checked_one(self, request: Any) -> Any:
        if isinstance(request, Message):  # anything else is refused by the decoding
            current_resource.set(self._rule.resource_of(request)[:300])
            self._rule.check_projects(current_principal.get(), request)
        return request


def credentials_of(context: aio.ServicerContext[Any, Any]) -> Credentials:
    """What a call carries."""
    metadata = context.invocation_metadata() or ()
    given = tuple(value for key, value in metadata if key == "authorization" and isinstance(value, str))
    return Credentials(given, _certificate_names(context.auth_context()))


def _certificate_names(properties: Any) -> tuple[str, ...]:
    """URIs first, then the common name; a common name that looks like a URI is none."""
    uris = [value.decode(errors="replace") for value in properties.get("peer_uri", ())]
    common = [value.decode(errors="replace") for value in properties.get("x509_common_name", ())]
    return (*(uri for uri in uris if "://" in uri), *(name for name in common if "://" not in name))
