"""How often a caller may call, and how many streams it may hold open; kept in memory, so each server counts for itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import RateLimitedError

BURST_S = 2.0
"""Seconds of calls that a caller may make at once after a pause."""
_MOST_BUCKETS = 10_000


@dataclass
class _Bucket:
    tokens: float
    filled: float


class CallRate:
    """A token bucket per caller. Not for use by several threads.

    Args:
        calls_per_s: 0 sets no limit.
        clock: seconds that only grow.
    """

    def __init__(self, calls_per_s: float, burst: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = calls_per_s
        self._burst = max(1.0, BURST_S * calls_per_s) if burst is None else burst
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def wait_s(self, caller: str) -> float:
        """Count a call: 0 if it may go on, otherwise the seconds after which one may."""
        if not self._rate:
            return 0.0
        now = self._clock()
        bucket = self._buckets.get(caller)
        if bucket is None:
            if len(self._buckets) >= _MOST_BUCKETS:
                self._forget_full(now)
            bucket = self._buckets[caller] = _Bucket(self._burst, now)
        bucket.tokens, bucket.filled = min(self._burst, bucket.tokens + (now - bucket.filled) * self._rate), now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / self._rate
        bucket.tokens -= 1
        return 0.0

    def take(self, caller: str) -> None:
        """Count a call.

        Raises:
            RateLimitedError: it is one too many; says when the next may be made.
        """
        wait_s = self.wait_s(caller)
        if wait_s:
            raise RateLimitedError(caller, f"{caller} makes more than {self._rate:g} calls a second; wait {wait_s:.2f} s", wait_s)

    def _forget_full(self, now: float) -> None:
        """A full bucket is as good as none."""
        full_after_s = self._burst / self._rate
        self._buckets = {caller: b for caller, b in self._buckets.items() if now - b.filled < full_after_s}


class OpenStreams:
    """How many streams each caller holds open; ``most`` of 0 sets no limit. Not for use by several threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def held(self, caller: str) -> Iterator[None]:
        """Hold one while the block runs.

        Raises:
            RateLimitedError: the caller has as many as it may have.
        """
        if self._most and self._open[caller] >= self._most:
            raise RateLimitedError(caller, f"{caller} has {self._most} streams open, the most that it may have; end one first", 5.0)
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]
