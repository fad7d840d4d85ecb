"""Tars with links, devices, sparse files and extended headers that lie."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from random import Random

from tests.fuzzing.corpus import Corpus, Entries, tarred
from tests.fuzzing.payloads import pickles
from tests.fuzzing.zip_mutators import NAMES

_KINDS = (*b"01234567xgLKSXANDV", 0, 255)
_PACK = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
_PAX = ("path", "size", "linkpath", "mtime", "uid", "hdrcharset", "comment")
_SPARSE = ("GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name", "GNU.sparse.realsize")
_VALUES = ("../../evil.png", "/etc/passwd", "-1", "99999999999999999999", "0,1,2", "1.0", "", "BINARY", "x" * 5000, "0,512,0,512")


def strange_kind(random: Random, entries: Entries) -> bytes:
    """A member that is no file: a link out of the folder, a device, a pipe, an unknown letter."""
    info = tarfile.TarInfo(random.choice(("cat/strange.png", *NAMES[:6])))
    info.type = bytes([random.choice(_KINDS)])
    info.linkname = random.choice(("/etc/passwd", "../../outside", "cat/1.jpg", ""))
    info.size = random.choice((0, 1, 512, 1 << 33, (1 << 33) - 1))
    info.devmajor, info.devminor = 1, 3
    return _packed(random, _insert(random, entries, info.tobuf(tarfile.GNU_FORMAT) + bytes(512)))


def wrong_header(random: Random, entries: Entries) -> bytes:
    """One byte or number of one header, with the checksum put right again."""
    archive = bytearray(tarred(entries))
    blocks = [i for i in range(0, len(archive) - 512, 512) if archive[i + 257 : i + 262] == b"ustar"]
    start = random.choice(blocks)
    header = archive[start : start + 512]
    at = random.choice((0, 100, 124, 125, 135, 136, 156, 157, 257, 263, 329, 345, 386, 482, 483))
    header[at : at + 12] = random.choice(
        (b"\xff" * 12, b"77777777777\0", b"\x80" + b"\xff" * 11, b"-1\0" + bytes(9), random.randbytes(12))
    )
    if random.random() < 0.8:
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
    archive[start : start + 512] = header[:512]
    return _packed(random, bytes(archive))


def extended_header(random: Random, entries: Entries) -> bytes:
    """Pax records that rename, resize or make sparse what follows."""
    records = {random.choice((*_PAX, *_SPARSE)): random.choice(_VALUES) for _ in range(random.choice((1, 3)))}
    body = b"".join(_record(key, value) for key, value in records.items())
    if random.random() < 0.2:
        body = random.choice((b"99999 path=x\n", b"0 =\n", b"-5 a=b\n", b"11 path\n", bytes(100)))
    info = tarfile.TarInfo("pax")
    info.type, info.size = random.choice((tarfile.XHDTYPE, tarfile.XGLTYPE)), len(body)
    return _packed(random, _insert(random, entries, info.tobuf() + body.ljust(-(-len(body) // 512) * 512, b"\0")))


def headers_without_end(random: Random, entries: Entries) -> bytes:
    """Thousands of extended headers one after the other: each is read inside the one before."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = random.choice((tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)), 0
    return _packed(random, info.tobuf(tarfile.GNU_FORMAT) * 3000 + tarred(entries))


def long_header(random: Random, entries: Entries) -> bytes:
    """An extended header of gigabytes, or so it says."""
    info = tarfile.TarInfo("long")
    info.type = random.choice((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK))
    info.size = random.choice((1 << 21, 1 << 32, 1 << 60, -1))
    return _packed(random, info.tobuf(tarfile.GNU_FORMAT) + tarred(entries))


def sparse(random: Random, entries: Entries) -> bytes:
    """An old GNU sparse file with a map that lies."""
    info = tarfile.TarInfo("cat/sparse.png")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for index in range(8):
        at = 386 + 12 * index
        header[at : at + 12] = random.choice((b"00000000000\0", b"77777777777\0", b"00000001000\0", random.randbytes(12)))
    header[482] = random.choice((0, 1))
    header[483:495] = random.choice((b"77777777777\0", b"00000002000\0", b"\x80" + b"\x7f" * 11))
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return _packed(random, _insert(random, entries, bytes(header) + bytes(1024)))


def hostile_name(random: Random, entries: Entries) -> bytes:
    """A name that would leave the folder, or is no name."""
    return tarred({**entries, random.choice(NAMES): b"x"}, random.choice(tuple(_PACK)))


def doubled(random: Random, entries: Entries) -> bytes:
    """A name that is there twice."""
    archive = tarred({random.choice(list(entries)): b"first"})
    return _packed(
        random, archive[: -2 * 512 * 10 + 1024] + tarred(entries) if random.random() < 0.3 else archive[:1024] + tarred(entries)
    )


def bomb(random: Random, entries: Entries) -> bytes:
    """Zeros without end, packed."""
    return tarred({**entries, "cat/bomb.png": bytes(random.choice((5, 70)) << 20)}, random.choice(("gz", "bz2", "xz")))


def pickled_member(random: Random, corpus: Corpus, entries: Entries) -> bytes:
    """A pickle as a member."""
    name = random.choice(("data.pkl", "cat/0.png", "labels.csv", "pickle", "storages"))
    return tarred({**entries, name: random.choice(pickles(corpus.outside))}, random.choice(tuple(_PACK)))


def broken_packing(random: Random, entries: Entries) -> bytes:
    """A packed stream that is damaged, doubled or packed twice."""
    packing = random.choice(("gz", "bz2", "xz"))
    packed = bytearray(tarred(entries, packing))
    choice = random.random()
    if choice < 0.5:
        packed[random.randrange(len(packed))] ^= 1 << random.randrange(8)
        return bytes(packed)
    return bytes(packed) * 2 if choice < 0.75 else bytes(_PACK[packing](bytes(packed)))


def _record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body) + len(str(len(body)))
    return f"{length}".encode() + body


def _insert(random: Random, entries: Entries, blocks: bytes) -> bytes:
    archive = tarred(entries)
    return blocks + archive if random.random() < 0.7 else archive[:1024] + blocks + archive[1024:]


def _packed(random: Random, archive: bytes) -> bytes:
    return bytes(_PACK[random.choice(tuple(_PACK))](archive)) if random.random() < 0.3 else archive


def table_in_tar(random: Random, entries: Entries) -> bytes:
    """A table of labels with hostile cells."""
    from tests.fuzzing.table_mutators import hostile_listing

    buffer = io.BytesIO(tarred({**entries, "labels.csv": hostile_listing(random, entries)}))
    return buffer.getvalue()
