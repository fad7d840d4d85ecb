"""Whether anybody still waits for an answer: work in threads asks before it changes something."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass

from service.errors import CallAbandonedError


@dataclass
class Call:
    """A call in progress. ``deadline`` is of `time.monotonic`, None where the caller set none."""

    deadline: float | None = None
    is_abandoned: bool = False


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
"""The call that this code works for; None where it works for nobody in particular. Threads of `asyncio.to_thread` inherit it."""


def check_call() -> None:
    """Return if somebody waits.

    Raises:
        CallAbandonedError: the caller has gone, or its deadline has passed.
    """
    call = current_call.get()
    if call is None:
        return
    if call.is_abandoned or (call.deadline is not None and time.monotonic() > call.deadline):
        raise CallAbandonedError("the deadline of this call has passed; nothing was changed")
