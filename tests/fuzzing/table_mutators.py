"""Tables of labels and of pixels, and images, that a reader must not believe."""

from __future__ import annotations

import io
import struct
import zlib
from random import Random

from PIL import Image

from tests.fuzzing.corpus import Entries
from tests.fuzzing.zip_mutators import NAMES

_CELLS = ("", "-1", "1e400", "nan", "99999999", "9" * 5000, "\0", '"', "=cmd|'/c calc'!A0", "x" * 140_000, "\u202e", "train", "é")


def hostile_listing(random: Random, entries: Entries) -> bytes:
    """A CSV beside images: columns doubled, names that leave the archive, cells that are no labels."""
    header = random.choice(("filename,label", "filename,label,split", "label", "filename,filename", "filename,label,label2", ""))
    columns = header.count(",") + 1
    rows = [header]
    for name in list(entries)[: random.choice((0, 5, 24))]:
        cells = [random.choice(_CELLS) if random.random() < 0.2 else str(random.randrange(3)) for _ in range(columns - 1)]
        rows.append(",".join([random.choice(NAMES) if random.random() < 0.1 else name, *cells]))
    if random.random() < 0.2:
        rows[0] += "," + ",".join(f"group{i}" for i in range(random.choice((3, 100))))
    return "\n".join(rows).encode(random.choice(("utf-8", "utf-16", "utf-8-sig")), "replace")


def hostile_table(random: Random) -> bytes:
    """A CSV of pixels."""
    header = ["label", *(f"pixel{i}" for i in range(16))]
    rows = [[str(index % 3), *(str(random.randrange(256)) for _ in range(16))] for index in range(24)]
    action = random.randrange(6)
    if action == 0:
        rows[random.randrange(24)][random.randrange(17)] = random.choice(_CELLS)
    elif action == 1:
        header[random.randrange(17)] = random.choice((*_CELLS, "label", "split", "filename", "pixel0"))
    elif action == 2:
        for row in rows:
            row.append(random.choice(_CELLS))
        header.append(random.choice(("split", "camera", "label2", "")))
    elif action == 3:
        rows = [row[: random.randrange(18)] for row in rows]
    elif action == 4:
        header = header * random.choice((2, 300))
    else:
        rows = [[random.choice(_CELLS) for _ in range(17)] for _ in rows]
    text = "\n".join(",".join(row) for row in [header, *rows])
    return text.encode(random.choice(("utf-8", "utf-8", "utf-16", "latin-1")), "replace")


def hostile_image(random: Random, sound: bytes) -> bytes:
    """One image that lies about its size or its format, or does not end."""
    action = random.randrange(7)
    if action == 0:
        return _png(random.choice((1, 60_000, 2**31 - 1)), random.choice((1, 60_000, 2**31 - 1)))
    if action == 1:
        kind = random.choice(("GIF", "TIFF", "PDF", "EPS", "ICO", "TGA"))
        buffer = io.BytesIO()
        Image.new("L" if kind != "EPS" else "RGB", (4, 4)).save(buffer, kind)
        return buffer.getvalue()
    if action == 2:
        width, height, top = random.choice((4, 10**6, 10**10)), random.choice((4, -4, 10**9)), random.choice((255, 0, 65535, 10**9))
        return f"P5 {width} {height} {top}\n".encode() + bytes(32)
    if action == 3:
        size = random.choice((4, 40_000, -1, 2**31 - 1))
        return (
            b"BM"
            + struct.pack("<IHHI", 70, 0, 0, 54)
            + struct.pack(
                "<IiiHHIIiiII", 40, size, size, 1, random.choice((1, 8, 24, 999)), random.choice((0, 1, 3)), 0, 0, 0, 0, 0
            )
        )
    if action == 4:
        return sound[: random.randrange(len(sound))]
    if action == 5:
        buffer = io.BytesIO()
        Image.new("L", random.choice(((20_000, 1), (1, 20_000), (1, 1)))).save(buffer, "PNG")
        return buffer.getvalue()
    changed = bytearray(sound)
    for _ in range(8):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(5 << 20)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + text + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
    )
