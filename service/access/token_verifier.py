"""API tokens checked against the store, with a short memory so that the store is not asked at every call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

from service.access.principal import ALL_PROJECTS, Principal
from service.access.tokens import ApiToken
from service.errors import StoreUnavailableError, UnauthenticatedError
from service.store.access_store import USE_NOTED_EVERY_S, AccessStore, StoredToken

_LOG = logging.getLogger("paretopress.access")
REMEMBERED_S = 3.0
"""For how long a token that was revoked elsewhere may still be taken."""
_MOST_REMEMBERED = 10_000


@dataclass
class _Remembered:
    token: StoredToken | None
    asked: float
    use_noted: float = 0.0


class TokenVerifier:
    """Checks API tokens. For one event loop.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, store: AccessStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._remembered: dict[str, _Remembered] = {}
        self._lookups: dict[str, asyncio.Task[StoredToken | None]] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def verify(self, token: ApiToken) -> Principal:
        """Who bears a token.

        Raises:
            UnauthenticatedError: it does not exist, has expired or was revoked.
            StoreUnavailableError: nobody can say now.
        """
        stored = await self._stored(token.token_id)
        if stored is None or not token.matches(stored.secret_sha256):
            raise UnauthenticatedError("there is no such API token; have one made with `paretopress tokens create`")
        now = self._clock()
        if stored.revoke_time is not None:
            raise UnauthenticatedError(f"the API token {token.token_id} was revoked; have a new one made")
        if now >= stored.expire_time:
            raise UnauthenticatedError(f"the API token {token.token_id} has expired; have a new one made")
        self._note_use(token.token_id, now)
        projects = frozenset({ALL_PROJECTS if stored.all_projects else stored.project})
        return Principal(f"token:{token.token_id}", projects, stored.scope)

    async def stop(self) -> None:
        """Let the notes under way end."""
        await asyncio.gather(*self._notes, return_exceptions=True)

    async def _stored(self, token_id: str) -> StoredToken | None:
        known = self._remembered.get(token_id)
        if known is not None and abs(self._clock() - known.asked) < REMEMBERED_S:
            return known.token
        lookup = self._lookups.get(token_id)
        if lookup is None:
            # One question for all the calls that wait for it: neither a caller that goes away nor its deadline ends it.
            lookup = self._lookups[token_id] = asyncio.create_task(self._ask(token_id), context=Context())
            lookup.add_done_callback(lambda _: self._lookups.pop(token_id, None))
        return await asyncio.shield(lookup)

    async def _ask(self, token_id: str) -> StoredToken | None:
        asked = self._clock()
        token = await asyncio.to_thread(self._store.find, token_id)
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        before = self._remembered.get(token_id)
        self._remembered[token_id] = _Remembered(token, asked, before.use_noted if before else 0.0)
        return token

    def _note_use(self, token_id: str, now: float) -> None:
        known = self._remembered.get(token_id)
        if known is None or known.token is None or now - known.use_noted < USE_NOTED_EVERY_S:
            return
        known.use_noted = now
        note = asyncio.create_task(self._write_use(token_id, now), context=Context())
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def _write_use(self, token_id: str, now: float) -> None:
        try:
            await asyncio.to_thread(self._store.note_use, token_id, now)
        except StoreUnavailableError as error:
            _LOG.warning("the use of token %s was not noted: %s", token_id, error)
