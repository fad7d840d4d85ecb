"""npz archives with headers that lie, object arrays with payloads, and arrays that do not fit together."""

from __future__ import annotations

import io
import struct
from random import Random
from typing import Any

import numpy as np

from tests.fuzzing.corpus import Corpus, saved_arrays, zipped
from tests.fuzzing.payloads import code, pickles

_SHAPES = ("(24,4,4)", "(-1,4,4)", "(2**40,)", "(99999999999999999999,)", "(0,)", "()", "(24,)*40", "(24,4,4", "[24,4,4]", "None")
_TYPES = (
    "'|u1'",
    "'|O'",
    "'<U999999999'",
    "'|V0'",
    "'|S0'",
    "'<M8[ns]'",
    "'<c16'",
    "[('a','<i4')]",
    "[('a','|O')]",
    "'<f16'",
    "'x'",
    "None",
)


def lying_header(random: Random, corpus: Corpus) -> bytes:
    """A header with a shape or a type that cannot be, or that is code."""
    shape, kind = random.choice((*_SHAPES, *code(corpus.outside))), random.choice(_TYPES)
    header = random.choice(
        (
            f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}",
            f"{{'descr': {kind}, 'fortran_order': 7, 'shape': {shape}}}",
            "{" * 5000,
            f"({random.choice(code(corpus.outside))})",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (24,4,4), 'more': 1}",
        )
    )
    return _with(corpus, random.choice(("images", "labels", "split")), _npy(random, header.encode("latin-1"), bytes(384)))


def pickled_array(random: Random, corpus: Corpus) -> bytes:
    """An object array whose pickle is a payload, under every name."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    member = _npy(random, header, random.choice(pickles(corpus.outside)))
    return _with(corpus, random.choice(("images", "labels", "split", "class_names", "group_camera", "more")), member)


def raw_pickle(random: Random, corpus: Corpus) -> bytes:
    """A pickle where an array should be, or instead of the archive."""
    payload = random.choice(pickles(corpus.outside))
    return payload if random.random() < 0.3 else _with(corpus, random.choice(("images", "labels", "extra")), payload)


def unfitting(random: Random, corpus: Corpus) -> bytes:
    """Sound arrays that mean nothing together."""
    images = corpus.arrays["images"]
    odd: list[Any] = [
        np.array(3), np.zeros((24, 0)), np.zeros((24, 4, 4, 4, 4)), np.full(24, np.nan), np.full(24, np.inf), np.full(24, -1),
        np.full(24, 2**62), np.array(["\x1b[31m"] * 24), np.array(["x" * 3000] * 24), np.zeros(24, complex), np.zeros(23),
        np.zeros(24, "M8[s]"), np.zeros(24, [("a", "i4")]), np.arange(24) * 10_000, np.zeros((24, 3), bool), images[..., None],
        images.astype(np.float64) * 1e300, np.zeros((24, 4096, 1), np.uint8), np.zeros((24, 1, 70_000), np.uint8),
        np.array([b"x"] * 24),
    ]  # fmt: skip
    names = (
        "images",
        "labels",
        "split",
        "class_names",
        "group_camera",
        "groups",
        "x_train",
        "y_train",
        "x_test",
        "y_test",
        "group_",
    )
    arrays = dict(corpus.arrays)
    for _ in range(random.choice((1, 2))):
        arrays[random.choice(names)] = random.choice(odd)
    return saved_arrays(arrays, packed=random.random() < 0.3)


def long_image(random: Random, corpus: Corpus) -> bytes:
    """Images whose shortest side, once resized, would make the longest one endless."""
    side = random.choice((1000, 200_000))
    return saved_arrays(
        {"images": np.zeros((12, 1, side), np.uint8), "labels": corpus.arrays["labels"][:12]}, packed=random.random() < 0.5
    )


def _npy(random: Random, header: bytes, data: bytes) -> bytes:
    version = random.choice((1, 1, 2, 3, 9))
    length = random.choice((len(header) + 1, len(header) + 1, 0, 65535))
    size = struct.pack("<H", length & 0xFFFF) if version == 1 else struct.pack("<I", random.choice((length, 2**32 - 1)))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + b"\n" + data


def _with(corpus: Corpus, name: str, member: bytes) -> bytes:
    members = {}
    for each, array in corpus.arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        members[f"{each}.npy"] = buffer.getvalue()
    suffix = ".npy" if random_suffix(member) else ""
    return zipped({**members, f"{name}{suffix}": member})


def random_suffix(member: bytes) -> bool:
    """Whether the member is called as an array; decided by its bytes, so that a seed gives the same file."""
    return sum(member) % 5 > 0
