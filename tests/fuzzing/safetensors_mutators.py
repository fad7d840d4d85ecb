"""safetensors files whose header lies."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from tests.fuzzing import json_mutators
from tests.fuzzing.corpus import Corpus
from tests.fuzzing.payloads import code, pickles

_TYPES = ("F32", "F64", "BF16", "I64", "BOOL", "F8_E5M2", "X9", "", None, "C64")


def lying_length(random: Random, corpus: Corpus) -> bytes:
    """The header's length is not the header's."""
    header, data = _split(corpus.safetensors)
    length = random.choice((0, 1, len(header) - 1, len(header) + 1, len(header) + len(data), 2**31, 2**63, 2**64 - 1, 100_000_001))
    return struct.pack("<Q", length) + header + data[: random.choice((0, 100, len(data)))]


def lying_entry(random: Random, corpus: Corpus) -> bytes:
    """One tensor of another type, shape or place."""
    header, data = _parsed(corpus.safetensors)
    name = random.choice([key for key in header if key != "__metadata__"])
    begin, end = header[name]["data_offsets"]
    action = random.randrange(5)
    if action == 0:
        header[name]["dtype"] = random.choice(_TYPES)
    elif action == 1:
        header[name]["shape"] = random.choice(([], [-1], [2**63], [2**32, 2**32], [0], header[name]["shape"][::-1], [1] * 3000))
    elif action == 2:
        offsets: list[list[int]] = [
            [0, end],
            [begin, begin],
            [end, begin],
            [-1, end],
            [begin, 2**63],
            [begin + 1, end + 1],
            [len(data), len(data) + 4],
        ]
        header[name]["data_offsets"] = random.choice(offsets)
    elif action == 3:
        header["more"] = dict(header[name])
    else:
        del header[name]
    return _built(header, data)


def wrong_json(random: Random, corpus: Corpus) -> bytes:
    """A hostile value anywhere in the header."""
    header, data = _parsed(corpus.safetensors)
    small = dict(list(header.items())[: random.choice((1, 5, len(header)))])
    values = json_mutators.hostile_values(code(corpus.outside))
    return _built(json_mutators.change(random, small, values, random.choice((1, 3))), data[:4096])


def strange_header(random: Random, corpus: Corpus) -> bytes:
    """No JSON, JSON without end, keys twice, or a pickle."""
    _, data = _split(corpus.safetensors)
    text = random.choice(
        (
            b"[" * 100_000,
            b"{}",
            b"",
            b'{"a":' * 50_000,
            b'{"a":1,"a":2}',
            b"\xff\xfe",
            *pickles(corpus.outside),
            b'{"__metadata__":{"a":1}}',
        )
    )
    return struct.pack("<Q", len(text)) + text + data[:100]


def _split(content: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], content[8 + length :]


def _parsed(content: bytes) -> tuple[dict[str, Any], bytes]:
    header, data = _split(content)
    return json.loads(header), data


def _built(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
