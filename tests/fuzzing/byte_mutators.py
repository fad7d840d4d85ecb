"""Damage that knows nothing of the format: flips, cuts, splices, and lengths that lie."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

EXTREMES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
EDGE_BYTES = 600
"""Headers and tables of contents lie at a file's ends; the weights between them say little."""


def flip(random: Random, data: bytes) -> bytes:
    """Some bits anywhere near the ends."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        if changed:
            changed[_place(random, len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(random: Random, data: bytes) -> bytes:
    """Only the beginning, or all but the beginning."""
    at = _place(random, len(data) + 1)
    return data[:at] if random.random() < 0.7 else data[at:]


def lie(random: Random, data: bytes) -> bytes:
    """An extreme number where a length might stand."""
    width, order = random.choice((1, 2, 4, 8)), random.choice("<>")
    number = random.choice(EXTREMES) & ((1 << 8 * width) - 1)
    at = _place(random, max(1, len(data) - width))
    return data[:at] + struct.pack(f"{order}{'BHIQ'[width.bit_length() - 1]}", number) + data[at + width :]


def splice(random: Random, data: bytes) -> bytes:
    """A piece repeated, moved, blanked or replaced by noise."""
    start = _place(random, max(1, len(data)))
    piece = data[start : start + random.choice((1, 8, 64, 512))]
    at = _place(random, max(1, len(data)))
    new = random.choice((piece, piece * 3, bytes(len(piece)), random.randbytes(len(piece)), b""))
    return data[:at] + new + data[at + random.choice((0, len(new))) :]


def surround(random: Random, data: bytes) -> bytes:
    """Junk before or behind."""
    junk = random.choice((b"\0" * 512, random.randbytes(100), b"PK\x05\x06" + bytes(18), b"\x80\x04."))
    return junk + data if random.random() < 0.5 else data + junk


def replace_all(random: Random, data: bytes) -> bytes:
    """Another kind of file altogether."""
    return random.choice(
        (random.randbytes(300), b"\0", b"{}", b"[" * 100_000, b"PK\x05\x06" + bytes(18), b"\x1f\x8b\x08\0", b"\x93NUMPY")
    )


DAMAGE: tuple[Callable[[Random, bytes], bytes], ...] = (flip, cut, lie, splice, surround, replace_all)


def _place(random: Random, length: int) -> int:
    if length <= 2 * EDGE_BYTES or random.random() < 0.15:
        return random.randrange(length)
    return random.randrange(EDGE_BYTES) if random.random() < 0.5 else length - 1 - random.randrange(EDGE_BYTES)
