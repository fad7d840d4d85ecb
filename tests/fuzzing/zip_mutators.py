"""Zips that lie about what is in them, or hold what must not come out."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from random import Random

from tests.fuzzing.byte_mutators import EXTREMES
from tests.fuzzing.corpus import Corpus, Entries, zipped
from tests.fuzzing.payloads import pickles

NAMES = (
    "/etc/cron.d/evil.png", "../../evil.png", "cat/../../../evil.png", "C:\\evil.png", "cat\\..\\..\\evil.png", "cat/\0evil.png",
    "cat/" + "n" * 20_000 + ".png", "cat/" * 3000 + "x.png", "", ".", "./cat/x.png", "cat//x.png", "cat/\u202egnp.exe.png",
    "cat/\x1b]0;owned\x07.png", "~/x.png", "cat/x.png/", "\ufeffcat/x.png", "con/aux.png", "$(mkdir evil)/x.png",
    "cat/;mkdir evil;.png",
)  # fmt: skip
_FIELDS = {
    b"PK\x01\x02": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (38,
    4), (42, 4)),
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x05\x06": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
}  # fmt: skip
"""Offset and width of every number in the central directory, the local headers and the end record."""


def wrong_number(random: Random, archive: bytes) -> bytes:
    """One number of one header: sizes, checksum, method, flags, offsets, lengths of names, counts."""
    signature = random.choice(tuple(_FIELDS))
    places = [i for i in range(len(archive)) if archive.startswith(signature, i)]
    if not places:
        return archive
    offset, width = random.choice(_FIELDS[signature])
    at = random.choice(places) + offset
    number = random.choice(EXTREMES) & ((1 << 8 * width) - 1)
    return archive[:at] + number.to_bytes(width, "little") + archive[at + width :]


def zip64_lie(random: Random, archive: bytes) -> bytes:
    """Sizes and counts are said to stand in zip64 records, which lie."""
    end = archive.rfind(b"PK\x05\x06")
    numbers = [random.choice(EXTREMES) & ((1 << 64) - 1) for _ in range(4)]
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *numbers)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, random.choice((end, 0, 1 << 62)), random.choice((1, 0, 9)))
    patched = bytearray(archive[end:])
    patched[8:20] = b"\xff" * 12
    return archive[:end] + record + locator + bytes(patched)


def overlapping(random: Random, archive: bytes) -> bytes:
    """Many names in the directory for the same bytes."""
    start, end = archive.find(b"PK\x01\x02"), archive.rfind(b"PK\x05\x06")
    entry_end = archive.find(b"PK\x01\x02", start + 4)
    entry = archive[start : entry_end if entry_end > 0 else end]
    name_at, length = 46, int.from_bytes(entry[28:30], "little")
    copies = b""
    count = random.choice((3, 200))
    for index in range(count):
        name = f"cat/{index:0{max(1, length - 8)}d}.png".encode()[-length:].rjust(length, b"a")
        copies += entry[:name_at] + name + entry[name_at + length :]
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(copies), start, 0)
    return archive[:start] + copies + tail


def hostile_name(random: Random, entries: Entries) -> bytes:
    """A name that would leave the folder, or is no name."""
    changed = dict(entries)
    name = random.choice(NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _with(changed, name.replace("\0", "#"), b"x").replace(b"cat/#evil", b"cat/\0evil")


def strange_kind(random: Random, entries: Entries) -> bytes:
    """A link, a device, a pipe, an encrypted entry or an unknown compression."""
    info = zipfile.ZipInfo("cat/strange.png")
    info.external_attr = random.choice((0o120777, 0o020666, 0o060666, 0o010644, 0o140777)) << 16
    buffer = io.BytesIO(zipped(entries))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(info, random.choice(("/etc/passwd", "../../outside", "")))
    return buffer.getvalue()


def doubled(random: Random, entries: Entries) -> bytes:
    """A name that is there twice, with another content."""
    return _with(entries, random.choice(list(entries)), b"second")


def bomb(random: Random, entries: Entries) -> bytes:
    """Few bytes that unpack to many: zeros, or a zip in a zip."""
    content = bytes(random.choice((3, 12)) << 20)
    if random.random() < 0.3:
        content = zipped({"inner.png": content})
    compression = random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    return zipped({**entries, "cat/bomb.png": content}, compression)


def pickled_entry(random: Random, corpus: Corpus, entries: Entries) -> bytes:
    """A pickle as an entry, under names that some library would load."""
    name = random.choice(("data.pkl", "archive/data.pkl", "cat/0.png", "labels.csv", "constants.pkl", "images.npy", "code/x.py"))
    return zipped({**entries, name: random.choice(pickles(corpus.outside))})


def many_entries(random: Random, entries: Entries) -> bytes:
    """A long table of contents."""
    return zipped({**entries, **{f"cat/{i}": b"" for i in range(3000)}})


def _with(entries: Entries, name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # doubled names
        with zipfile.ZipFile(buffer, "w") as archive:
            for each, data in entries.items():
                archive.writestr(each, data)
            archive.writestr(name or "#", content)
    return buffer.getvalue() if name else buffer.getvalue().replace(b"#", b" ")
