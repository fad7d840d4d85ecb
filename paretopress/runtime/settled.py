"""Whether a measured latency is certain enough to claim anything from it. Imports nothing: clients ask as well."""

from __future__ import annotations

_LARGEST_SHARE = 0.15


def has_settled(value_ms: float, spread_ms: float) -> bool:
    """Whether the half width of its 95% interval is at most 15% of it."""
    return spread_ms <= _LARGEST_SHARE * value_ms
