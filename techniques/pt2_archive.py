"""Checks a ``torch.export`` archive entry by entry against a closed list before anything opens it. Pure Python, no torch.

``torch.export.load`` unpickles sample inputs, tensor subclasses and custom objects, and loads compiled libraries. Here a
pickle is at most scanned, never opened; what comes out (`CheckedArchive`) is written to a fresh archive in which no pickle
is left. See `techniques.pt2_program` for the program text.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from techniques.errors import UnsafeModelError
from techniques.pt2_limits import DEFAULT_LIMITS, ArchiveLimits
from techniques.pt2_program import checked_program

HOW_TO_EXPORT = (
    "export it again with torch 2.9 or later: program = torch.export.export(model.eval(), (images,)); "
    "torch.export.save(program, 'model.pt2')"
)
_FIXED = frozenset({"archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id"})
_PATTERNS = {
    "program": re.compile(r"models/(\w{1,64})\.json"),
    "weight": re.compile(r"data/weights/weight_\d{1,7}"),
    "weights_config": re.compile(r"data/weights/(\w{1,64})_weights_config\.json"),
    "constant": re.compile(r"data/constants/tensor_\d{1,7}"),
    "constants_config": re.compile(r"data/constants/(\w{1,64})_constants_config\.json"),
    "sample_inputs": re.compile(r"data/sample_inputs/(\w{1,64})\.pt"),
    "extra": re.compile(r"extra/[\w-]{1,64}(?:\.[\w-]{1,16})?"),
}
_ELEMENT_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
_PICKLE_GLOBALS = frozenset(
    {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch Size"}
    | {"torch._tensor _rebuild_from_type_v2", "torch Tensor", "torch.nn.parameter Parameter"}
    | {f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")}
)
_STRING_OPCODES = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINUNICODE8"})


@dataclass(frozen=True)
class CheckedArchive:
    """What may be loaded: the program's cleaned text, raw tensors and their configurations; nothing else.

    Attributes:
        model_name: of the one program in the archive.
        program: JSON text for ``models/<name>.json``.
        payloads: other entries by their path below the archive's root, byte for byte or cleaned.
        network_facts: checked fields of ``extra/network.json``, empty where the archive has none.
    """

    model_name: str
    program: str
    payloads: Mapping[str, bytes]
    network_facts: Mapping[str, Any] = field(default_factory=dict)


def check(path: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> CheckedArchive:
    """Check an archive and take out what may be loaded. Nothing of it is executed or unpickled.

    Raises:
        UnsafeModelError: with the entry, what is wrong with it, and what to do.
    """
    size = path.stat().st_size
    if size > limits.total_bytes:
        raise UnsafeModelError(f"{path.name}: {size} bytes, at most {limits.total_bytes} are accepted")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive, size, limits)
            return _checked(archive, entries, limits)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, UnicodeDecodeError) as error:
        raise UnsafeModelError(f"{path.name}: not a readable archive ({error}); {HOW_TO_EXPORT}") from None


def _entries(archive: zipfile.ZipFile, size: int, limits: ArchiveLimits) -> dict[str, zipfile.ZipInfo]:
    """Entries by their path below the root folder, once sizes, names and kinds are sound."""
    infos = archive.infolist()
    if not infos or len(infos) > limits.entries:
        raise UnsafeModelError(f"the archive has {len(infos)} entries, 1 to {limits.entries} are accepted")
    if sum(info.file_size for info in infos) > size:
        raise UnsafeModelError("the archive's entries are larger than the file: compressed or overlapping entries")
    root = infos[0].filename.partition("/")[0]
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        folder, _, name = info.filename.partition("/")
        if folder != root or ".." in name.split("/") or "\\" in name or name.startswith("/") or "\0" in info.orig_filename:
            raise UnsafeModelError(f"{info.filename[:120]!r}: a path outside the archive's folder {root[:60]!r}")
        if name in entries:
            raise UnsafeModelError(f"{info.filename[:120]!r} is there twice")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or info.filename.endswith("/"):
            raise UnsafeModelError(f"{info.filename[:120]!r} is a link or folder, not a plain file")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
            raise UnsafeModelError(f"{info.filename[:120]!r} is compressed or encrypted; {HOW_TO_EXPORT}")
        entries[name] = info
    return entries


def _kind(name: str) -> str:
    if name in _FIXED:
        return "fixed"
    for kind, pattern in _PATTERNS.items():
        if pattern.fullmatch(name):
            return kind
    raise UnsafeModelError(f"entry {name[:120]!r} is not part of a plain exported program and is not accepted; {HOW_TO_EXPORT}")


def _checked(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], limits: ArchiveLimits) -> CheckedArchive:
    kinds: dict[str, list[str]] = {}
    for name, info in entries.items():
        kind = _kind(name)
        kinds.setdefault(kind, []).append(name)
        allowed = limits.total_bytes if kind in ("weight", "constant", "sample_inputs") else limits.json_bytes
        allowed = limits.extra_bytes if kind in ("extra", "fixed") else allowed
        if info.file_size > allowed:
            raise UnsafeModelError(f"entry {name!r}: {info.file_size} bytes, at most {allowed} are accepted")
    for name, expected in {"archive_format": b"pt2", "byteorder": b"little"}.items():
        if name not in entries or archive.read(entries[name]) != expected:
            raise UnsafeModelError(f"entry {name!r} is missing or not {expected.decode()!r}; {HOW_TO_EXPORT}")
    programs = kinds.get("program", [])
    if len(programs) != 1:
        raise UnsafeModelError(f"the archive holds {len(programs)} programs, exactly one is accepted; {HOW_TO_EXPORT}")
    model = programs[0].removeprefix("models/").removesuffix(".json")
    for name in kinds.get("sample_inputs", []):
        _check_sample_inputs(name, archive.read(entries[name]))
    text, _ = checked_program(programs[0], archive.read(entries[programs[0]]), limits)
    payloads: dict[str, bytes] = {}
    for folder, prefix in (("weights", "weight_"), ("constants", "tensor_")):
        config = f"data/{folder}/{model}_{folder}_config.json"
        if config not in entries:
            raise UnsafeModelError(f"entry {config!r} is missing; {HOW_TO_EXPORT}")
        payloads[config], used = _checked_config(config, archive.read(entries[config]), entries, prefix, limits)
        payloads |= {name: archive.read(entries[name]) for name in used}
    facts = _network_facts(archive.read(entries["extra/network.json"])) if "extra/network.json" in entries else {}
    return CheckedArchive(model, text, payloads, facts)


def _checked_config(
    name: str, text: bytes, entries: Mapping[str, zipfile.ZipInfo], prefix: str, limits: ArchiveLimits
) -> tuple[bytes, list[str]]:
    """A payload configuration in which every tensor is raw bytes of the right length, and the entries that it uses."""
    folder = name.rpartition("/")[0]
    try:
        config = json.loads(text)["config"]
        cleaned, used = {}, []
        for tensor_name, payload in config.items():
            if payload["use_pickle"] is not False or payload["tensor_meta"] is None:
                raise UnsafeModelError(f"{name}: {tensor_name[:80]!r} is pickled; only plain tensors are accepted")
            path = payload["path_name"]
            if not isinstance(path, str) or not re.fullmatch(rf"{prefix}\d{{1,7}}", path) or f"{folder}/{path}" not in entries:
                raise UnsafeModelError(
                    f"{name}: {tensor_name[:80]!r} points to {str(path)[:80]!r}, which is no tensor of the archive"
                )
            if not re.fullmatch(r"[\w@]{1,256}(\.[\w@]{1,256}){0,63}", tensor_name) or "__" in (tensor_name[:2], tensor_name[-2:]):
                raise UnsafeModelError(f"{name}: {tensor_name[:80]!r} is not a plain name")
            meta = _checked_tensor(
                f"{name}: {tensor_name[:80]!r}", payload["tensor_meta"], entries[f"{folder}/{path}"].file_size, limits
            )
            is_param = payload["is_param"] is True
            cleaned[tensor_name] = {"path_name": path, "is_param": is_param, "use_pickle": False, "tensor_meta": meta}
            used.append(f"{folder}/{path}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise UnsafeModelError(f"{name}: not a payload configuration ({type(error).__name__})") from None
    return json.dumps({"config": cleaned}).encode(), sorted(set(used))


def _checked_tensor(place: str, meta: Mapping[str, Any], stored_bytes: int, limits: ArchiveLimits) -> dict[str, Any]:
    sizes, strides = ([int(s["as_int"]) for s in meta[key]] for key in ("sizes", "strides"))
    offset, dtype = int(meta["storage_offset"]["as_int"]), int(meta["dtype"])
    if dtype not in _ELEMENT_BYTES or int(meta["layout"]) != 7 or meta["device"]["type"] != "cpu":
        raise UnsafeModelError(f"{place}: dtype {dtype} or layout is not accepted; plain CPU tensors are")
    if len(sizes) != len(strides) or len(sizes) > 16 or min([*sizes, *strides, offset, 0]) < 0:
        raise UnsafeModelError(f"{place}: sizes {sizes[:8]} and strides {strides[:8]} do not fit")
    elements = 1
    for size in sizes:
        elements *= size
    extent = offset + 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) if elements else 0
    if elements > limits.tensor_elements or extent * _ELEMENT_BYTES[dtype] > stored_bytes or stored_bytes % _ELEMENT_BYTES[dtype]:
        raise UnsafeModelError(f"{place}: {elements} elements do not fit the {stored_bytes} bytes stored for them")
    return {
        "dtype": dtype,
        "sizes": [{"as_int": size} for size in sizes],
        "requires_grad": meta["requires_grad"] is True,
        "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": stride} for stride in strides],
        "storage_offset": {"as_int": offset},
        "layout": 7,
    }


def _check_sample_inputs(name: str, data: bytes) -> None:
    """Scan the pickles of sample inputs for anything but tensors. They are dropped in any case: this tells a hostile file."""
    if not data:
        return
    pickles = {name: data}
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as inner:
            infos = inner.infolist()
            if sum(info.file_size for info in infos) > len(data):
                raise UnsafeModelError(f"entry {name!r}: compressed or overlapping entries inside")
            pickles = {f"{name}/{i.filename[:80]}": inner.read(i) for i in infos if i.filename.endswith(".pkl")}
    for place, content in pickles.items():
        scan_pickle(place, content)


def scan_pickle(place: str, content: bytes) -> None:
    """Read a pickle's opcodes, without running them, and refuse every global outside the closed list.

    Raises:
        UnsafeModelError: naming the global.
    """
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in _STRING_OPCODES:
                strings.append(str(argument))
            elif opcode.name in ("INST", "EXT1", "EXT2", "EXT4"):
                raise UnsafeModelError(f"{place}: a pickle that builds {str(argument)[:80]!r}; save tensors only")
            elif opcode.name in ("GLOBAL", "STACK_GLOBAL"):
                found = str(argument) if opcode.name == "GLOBAL" else " ".join(strings[-2:])
                if found not in _PICKLE_GLOBALS or (opcode.name == "STACK_GLOBAL" and len(strings) < 2):
                    raise UnsafeModelError(f"{place}: a pickle that calls {found[:80]!r}; save tensors only")
                strings = []
    except (ValueError, UnicodeDecodeError, IndexError, OverflowError) as error:
        raise UnsafeModelError(f"{place}: not a plain pickle of tensors ({str(error)[:80]})") from None


def _network_facts(text: bytes) -> dict[str, Any]:
    """What `techniques.export.to_pt2` writes to ``extra/network.json`` and no graph can tell: names and notes."""
    try:
        data = json.loads(text)
        if data["type"] != "network" or data["version"] != 1:
            raise ValueError("unknown type or version")
        names = {key: data[key] for key in ("input_name", "output_name")}
        if not all(isinstance(name, str) and re.fullmatch(r"[^\x00-\x20]{1,256}", name) for name in names.values()):
            raise ValueError("input and output names must be 1 to 256 visible characters")
        notes = [data["size_note"], *data["erased"]]
        if not all(isinstance(note, str) and len(note) <= 1000 for note in notes[:100]):
            raise ValueError("notes must be texts of at most 1000 characters")
        return {**names, "size_note": notes[0], "erased": tuple(notes[1:100])}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise UnsafeModelError(f"extra/network.json: {str(error)[:80]}") from None
