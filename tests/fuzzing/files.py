"""All mutators of files by format, and the endless seeded sequence of hostile files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random

from tests.fuzzing import (
    array_mutators,
    byte_mutators,
    onnx_mutators,
    pt2_mutators,
    safetensors_mutators,
    table_mutators,
    tar_mutators,
    zip_mutators,
)
from tests.fuzzing.corpus import Corpus, pt2_archive, saved_arrays, tarred, zipped

Mutator = Callable[[Random, Corpus], bytes]


@dataclass(frozen=True)
class HostileFile:
    """A file to be taken in as ``format`` (of `import_model` or `import_dataset`); ``name`` says what was done to it."""

    format: str
    name: str
    content: bytes


_SOUND: dict[str, Callable[[Corpus], bytes]] = {
    "pt2": lambda corpus: pt2_archive(corpus.pt2),
    "onnx": lambda corpus: corpus.onnx.SerializeToString(),
    "architecture": lambda corpus: corpus.safetensors,
    "npz": lambda corpus: saved_arrays(corpus.arrays),
    "zip": lambda corpus: zipped(corpus.files),
    "tar": lambda corpus: tarred(corpus.files),
}
SOUND_FORMATS = tuple(_SOUND)
MODEL_FORMATS = ("pt2", "onnx", "architecture")


def sound_file(format: str, corpus: Corpus) -> HostileFile:
    """What the mutators start from: it must be accepted, or nothing that follows means anything."""
    return HostileFile(format, "sound", _SOUND[format](corpus))


def _damaged(format: str, damage: Callable[[Random, bytes], bytes], random: Random, corpus: Corpus) -> bytes:
    return damage(random, _SOUND[format](corpus))


def _damaged_header(damage: Callable[[Random, bytes], bytes], random: Random, corpus: Corpus) -> bytes:
    """Of the numbers behind the header every value is as good as another, and taking each in would need seconds."""
    end = 8 + int.from_bytes(corpus.safetensors[:8], "little")
    return damage(random, corpus.safetensors[:end]) + corpus.safetensors[end:]


def _on_files(change: Callable[[Random, dict[str, bytes]], bytes], random: Random, corpus: Corpus) -> bytes:
    return change(random, corpus.files)


def _on_zip(change: Callable[[Random, bytes], bytes], format: str, random: Random, corpus: Corpus) -> bytes:
    return change(random, _SOUND[format](corpus))


def _hostile_image(format: str, random: Random, corpus: Corpus) -> bytes:
    name = random.choice(list(corpus.files))
    entries = {**corpus.files, name: table_mutators.hostile_image(random, corpus.files[name])}
    return zipped(entries) if format == "zip" else tarred(entries, random.choice(("", "gz")))


def _hostile_listing(random: Random, corpus: Corpus) -> bytes:
    return zipped({**corpus.files, "labels.csv": table_mutators.hostile_listing(random, corpus.files)})


def _own(module: object, *names: str) -> dict[str, Mutator]:
    return {name: getattr(module, name) for name in names}


_ZIP_BYTES = {f.__name__: f for f in (zip_mutators.wrong_number, zip_mutators.zip64_lie, zip_mutators.overlapping)}
_ZIP_FILES = (
    zip_mutators.hostile_name, zip_mutators.strange_kind, zip_mutators.doubled, zip_mutators.bomb, zip_mutators.many_entries,
)  # fmt: skip
_TAR_FILES = (
    tar_mutators.strange_kind, tar_mutators.wrong_header, tar_mutators.extended_header, tar_mutators.headers_without_end,
    tar_mutators.long_header, tar_mutators.sparse, tar_mutators.hostile_name, tar_mutators.doubled, tar_mutators.bomb,
    tar_mutators.broken_packing, tar_mutators.table_in_tar,
)  # fmt: skip

MUTATORS: dict[str, dict[str, Mutator]] = {
    "pt2": {
        **_own(pt2_mutators, "payload_entry", "pickled_tensor", "wrong_program", "wrong_config", "wrong_target", "code_in_text"),
        **_own(pt2_mutators, "wrong_version", "large_graph", "lying_tensor", "wrong_archive"),
        **{name: partial(_on_zip, f, "pt2") for name, f in _ZIP_BYTES.items()},
    },
    "onnx": _own(
        onnx_mutators, "external_data", "lying_tensor", "lying_input", "wrong_graph", "wrong_attribute", "inserted_operator",
        "nested_graph", "wrong_model", "long_chain",
    ),
    "architecture": _own(safetensors_mutators, "lying_length", "lying_entry", "wrong_json", "strange_header"),
    "npz": {
        **_own(array_mutators, "lying_header", "pickled_array", "raw_pickle", "unfitting", "long_image"),
        **{name: partial(_on_zip, f, "npz") for name, f in _ZIP_BYTES.items()},
    },
    "csv": {"hostile_table": lambda random, corpus: table_mutators.hostile_table(random)},
    "zip": {
        **{name: partial(_on_zip, f, "zip") for name, f in _ZIP_BYTES.items()},
        **{f.__name__: partial(_on_files, f) for f in _ZIP_FILES},
        "pickled_entry": lambda random, corpus: zip_mutators.pickled_entry(random, corpus, corpus.files),
        "hostile_image": partial(_hostile_image, "zip"),
        "hostile_listing": _hostile_listing,
    },
    "tar": {
        **{f.__name__: partial(_on_files, f) for f in _TAR_FILES},
        "pickled_member": lambda random, corpus: tar_mutators.pickled_member(random, corpus, corpus.files),
        "hostile_image": partial(_hostile_image, "tar"),
    },
}  # fmt: skip
for _format in _SOUND:
    _kind = partial(partial, _damaged_header) if _format == "architecture" else partial(partial, _damaged, _format)
    MUTATORS[_format] |= {damage.__name__: _kind(damage) for damage in byte_mutators.DAMAGE}


def hostile_files(corpus: Corpus, seed: int = 0) -> Iterator[HostileFile]:
    """Without end, every format and every mutator in turn; file number n depends on ``seed`` and n alone."""
    formats = list(MUTATORS)
    for number in count():
        format, turn = formats[number % len(formats)], number // len(formats)
        names = list(MUTATORS[format])
        name = names[turn % len(names)]
        yield HostileFile(format, name, MUTATORS[format][name](Random(f"{seed} {number}"), corpus))
