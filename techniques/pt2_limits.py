"""How large an uploaded archive may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ArchiveLimits:
    """Upper bounds; sizes are bytes in the archive, where nothing is compressed."""

    total_bytes: int = 2 * 1024**3
    entries: int = 100_000
    json_bytes: int = 128 * 1024**2
    extra_bytes: int = 1024**2
    nodes: int = 50_000
    tensor_elements: int = 2**31
    input_elements: int = 2**26


DEFAULT_LIMITS = ArchiveLimits()
