"""How the server's process treats memory: what it frees is kept for the next message, and full collections are rare."""

from __future__ import annotations

import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Names of glibc's settings, see mallopt(3)."""
_KEPT_BYTES = 8 << 20
_MAPPED_BYTES = 16 << 20
_ARENAS = 2
_FULL_COLLECTION_AFTER = 100


def keep_freed_memory() -> None:
    """Do not give the memory of each message back: the kernel would clear every page of the next one anew.

    That was a fifth of what an upload took. At most `_KEPT_BYTES` stay at the end of each of the allocator's arenas, of which there
    are few, or every thread would have one; without glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_ARENA_MAX, _ARENAS)


def make_pauses_rare() -> None:
    """All calls wait for a full collection, which walks through every open stream: 50 ms for a thousand.

    What was imported and built so far stays for good and is left out; the rest is looked through ten times less often than usual.
    Garbage that is in no cycle, which is nearly all, is not affected.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION_AFTER)
