"""Page tokens: opaque to the client, valid for the list that gave them, refused elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import InvalidRequestError

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 1000
ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class PageRequest:
    """Which page is asked for: at most ``size`` rows behind the key ``after`` (None for the first page)."""

    size: int
    after: int | str | None
    scope: str

    @property
    def after_id(self) -> int | None:
        """The key where rows are listed by a number.

        Raises:
            InvalidRequestError: the token holds a text.
        """
        if isinstance(self.after, str):
            raise _foreign_token()
        return self.after

    @staticmethod
    def parse(page_size: int, page_token: str, scope: str) -> PageRequest:
        """Read a request's fields; ``scope`` is what the token must belong to (parent and filter).

        Raises:
            InvalidRequestError: a negative size, or a token that this list did not give.
        """
        if page_size < 0:
            raise InvalidRequestError.of("page_size", f"must be 0 or more, got {page_size}")
        size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        return PageRequest(size, _decode(page_token, scope) if page_token else None, scope)

    def page(self, rows: Sequence[ItemT], key: Callable[[ItemT], int | str]) -> Page[ItemT]:
        """Cut rows (one more than ``size`` were asked for) into a page with the token of the next."""
        items = tuple(rows[: self.size])
        more = len(rows) > self.size
        return Page(items, _encode(key(items[-1]), self.scope) if more else "")


@dataclass(frozen=True)
class Page(Generic[ItemT]):
    """Some items, and the token of the next page (empty on the last)."""

    items: tuple[ItemT, ...]
    next_page_token: str


def _scope_digest(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:12]


def _encode(after: int | str, scope: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([_scope_digest(scope), after]).encode()).decode()


def _decode(token: str, scope: str) -> int | str:
    try:
        digest, after = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, TypeError, RecursionError):
        digest, after = "", None
    # What a forged token asks for must still be something that every database can compare.
    out_of_range = isinstance(after, int) and abs(after) >= 1 << 63
    if digest != _scope_digest(scope) or not isinstance(after, int | str) or out_of_range:
        raise _foreign_token()
    return after


def _foreign_token() -> InvalidRequestError:
    return InvalidRequestError.of("page_token", "was not given by this list; leave it empty for the first page")
