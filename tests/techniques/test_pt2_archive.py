"""Hostile archives: whatever is hidden wherever, it is refused and does not run."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from techniques import export, lift, pt2_archive
from techniques.errors import UnsafeModelError
from techniques.pt2_limits import ArchiveLimits
from techniques.pt2_program import check_expression
from tests.techniques.small_networks import BakedView, seeded

Entries = dict[str, bytes]


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> Entries:
    """Entries of an archive as torch writes it, sample inputs included."""
    path = tmp_path_factory.mktemp("pt2") / "plain.pt2"
    program = torch.export.export(
        seeded(BakedView()), (torch.zeros(2, 1, 14, 14),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
    )
    torch.export.save(program, path)
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def _write(path: Path, entries: Entries, compression: int = zipfile.ZIP_STORED, root: str = "plain") -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"{root}/{name}", content)
    return path


class _Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, (str(self.canary), "w"))


def _pickled(canary: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"x": _Payload(canary)}, buffer)
    return buffer.getvalue()


def _json(entries: Entries, name: str, change: Callable[[Any], None]) -> Entries:
    data = json.loads(entries[name])
    change(data)
    return entries | {name: json.dumps(data).encode()}


def _code(canary: Path) -> str:
    return f"__import__('pathlib').Path({str(canary)!r}).touch()"


PROGRAM, WEIGHTS, CONSTANTS = (
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)


def _weights_pickled(entries: Entries, canary: Path) -> Entries:
    def change(data: Any) -> None:
        next(iter(data["config"].values()))["use_pickle"] = True

    return _json(entries, WEIGHTS, change) | {"data/weights/weight_0": _pickled(canary)}


def _constant(path_name: str, use_pickle: bool) -> Callable[[Entries, Path], Entries]:
    def hostile(entries: Entries, canary: Path) -> Entries:
        payload = {"path_name": path_name, "is_param": False, "use_pickle": use_pickle, "tensor_meta": None}
        changed = _json(entries, CONSTANTS, lambda data: data["config"].update({"c": payload}))
        return changed | {f"data/constants/{path_name}": _pickled(canary)}

    return hostile


def _symbol(entries: Entries, canary: Path) -> Entries:
    def change(data: Any) -> None:
        values = data["graph_module"]["graph"]["sym_int_values"]
        values["sym_size"] = {"as_expr": {"expr_str": _code(canary), "hint": {"as_int": 2}}}

    return _json(entries, PROGRAM, change)


def _size(entries: Entries, canary: Path) -> Entries:
    def change(data: Any) -> None:
        meta = next(iter(data["graph_module"]["graph"]["tensor_values"].values()))
        meta["sizes"][0] = {"as_expr": {"expr_str": _code(canary), "hint": None}}

    return _json(entries, PROGRAM, change)


def _target(target: str) -> Callable[[Entries, Path], Entries]:
    def hostile(entries: Entries, canary: Path) -> Entries:
        def change(data: Any) -> None:
            data["graph_module"]["graph"]["nodes"][0]["target"] = target

        return _json(entries, PROGRAM, change)

    return hostile


def _region(target: str, name: str, outer: str = "torch.ops.higher_order.wrap_with_set_grad_enabled") -> Callable[..., Entries]:
    """A call that holds a graph with one call of ``target``."""

    def hostile(entries: Entries, canary: Path) -> Entries:
        def change(data: Any) -> None:
            node = data["graph_module"]["graph"]["nodes"][0]
            inner = {"inputs": [], "outputs": [], "nodes": [{**node, "target": target}], "tensor_values": {}}
            graph = {"name": name, "graph": {**inner, "sym_int_values": {}, "sym_bool_values": {}}}
            data["graph_module"]["graph"]["nodes"][0] = {**node, "target": outer}
            node["inputs"] = [{"name": "", "arg": {"as_graph": graph}, "kind": 1}]
            data["graph_module"]["graph"]["nodes"][0]["inputs"] = node["inputs"]

        return _json(entries, PROGRAM, change)

    return hostile


def _name(entries: Entries, canary: Path) -> Entries:
    """A node name that would become part of generated code."""
    text = entries[PROGRAM].decode()
    return entries | {PROGRAM: text.replace('"name": "relu_"', json.dumps({"name": f"relu_ = {_code(canary)} #"})[1:-1]).encode()}


def _compiled(entries: Entries, canary: Path) -> Entries:
    return entries | {"data/aotinductor/model/model.so": b"\x7fELF"}


@dataclass(frozen=True)
class Hostile:
    name: str
    change: Callable[[Entries, Path], Entries]


HOSTILE = [
    Hostile("sample_inputs", lambda e, c: e | {"data/sample_inputs/model.pt": _pickled(c)}),
    Hostile("sample_inputs_raw_pickle", lambda e, c: e | {"data/sample_inputs/model.pt": pickle.dumps(_Payload(c))}),
    Hostile("sample_inputs_protocol_0", lambda e, c: e | {"data/sample_inputs/model.pt": pickle.dumps(_Payload(c), 0)}),
    Hostile("weights_use_pickle", _weights_pickled),
    Hostile("legacy_weights", lambda e, c: e | {"data/weights/model.pt": _pickled(c)}),
    Hostile("legacy_constants", lambda e, c: e | {"data/constants/model.pt": _pickled(c)}),
    Hostile("constant_use_pickle", _constant("tensor_0", True)),
    Hostile("custom_object", _constant("custom_obj_0", True)),
    Hostile("opaque_object", _constant("opaque_obj_0", True)),
    Hostile("custom_object_unpickled_flag", _constant("custom_obj_0", False)),
    Hostile("symbol_expression", _symbol),
    Hostile("size_expression", _size),
    Hostile("target_hub", _target("torch.hub.load")),
    Hostile("target_system", _target("torch.os.system")),
    Hostile("target_dunder", _target("torch.ops.aten.__init__.__globals__")),
    Hostile("target_file", _target("torch.ops.aten.from_file.default")),
    Hostile("target_higher_order", _target("torch.ops.higher_order.cond")),
    Hostile("region_with_a_foreign_target", _region("torch.hub.load", "submod_1")),
    Hostile("region_of_another_name", _region("torch.ops.aten.relu.default", "forward")),
    Hostile("region_in_an_ordinary_call", _region("torch.ops.aten.relu.default", "submod_1", "torch.ops.aten.relu.default")),
    Hostile("target_extension", _target("#executorch:x")),
    Hostile("node_name", _name),
    Hostile("compiled_library", _compiled),
    Hostile("unknown_entry", lambda e, c: e | {"code/__torch__.py": b"x"}),
    Hostile("traversal", lambda e, c: e | {"../../evil": b"x"}),
    Hostile("second_program", lambda e, c: e | {"models/other.json": e[PROGRAM]}),
    Hostile("not_json", lambda e, c: e | {PROGRAM: b"[" * 100_000}),
    Hostile("tensor_beyond_its_bytes", lambda e, c: e | {"data/weights/weight_0": b"\0" * 4}),
]


@pytest.mark.parametrize("case", HOSTILE, ids=lambda c: c.name)
def test_hostile_archives_are_refused_and_nothing_runs(case: Hostile, entries: Entries, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = _write(tmp_path / "hostile.pt2", case.change(entries, canary))
    with pytest.raises(UnsafeModelError):
        lift.from_pt2(path)
    assert not canary.exists()


def test_guards_and_traces_are_dropped_rather_than_run(entries: Entries, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    def change(data: Any) -> None:
        data["guards_code"] = [_code(canary)]
        for node in data["graph_module"]["graph"]["nodes"]:
            node["metadata"]["stack_trace"] = f"\n{_code(canary)}\n"
            node["metadata"]["source_fn_stack"] = "x,torch.hub.load"

    network = lift.from_pt2(_write(tmp_path / "guards.pt2", _json(entries, PROGRAM, change)))
    network(torch.zeros(2, 1, 14, 14))
    assert not canary.exists()


def test_an_honest_archive_is_read(entries: Entries, tmp_path: Path) -> None:
    network = lift.from_pt2(_write(tmp_path / "plain.pt2", entries))
    images = torch.randn(7, 1, 14, 14)
    with torch.no_grad():
        assert torch.allclose(network(images), seeded(BakedView())(images), atol=1e-6)


def test_compressed_archives_are_refused(entries: Entries, tmp_path: Path) -> None:
    bomb = entries | {"data/weights/weight_999": b"\0" * 50_000_000}
    with pytest.raises(UnsafeModelError, match="larger than the file"):
        pt2_archive.check(_write(tmp_path / "bomb.pt2", bomb, zipfile.ZIP_DEFLATED))


def test_duplicates_links_and_other_roots_are_refused(entries: Entries, tmp_path: Path) -> None:
    path = _write(tmp_path / "twice.pt2", entries)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("plain/archive_format", b"pt2")
    with pytest.raises(UnsafeModelError, match="twice"):
        pt2_archive.check(path)
    path = _write(tmp_path / "link.pt2", entries)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("plain/extra/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UnsafeModelError, match="link"):
        pt2_archive.check(path)
    path = _write(tmp_path / "roots.pt2", entries)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("elsewhere/archive_format", b"pt2")
    with pytest.raises(UnsafeModelError, match="outside"):
        pt2_archive.check(path)


def test_limits_are_kept(entries: Entries, tmp_path: Path) -> None:
    path = _write(tmp_path / "plain.pt2", entries)
    for limits in (
        ArchiveLimits(total_bytes=1000),
        ArchiveLimits(entries=3),
        ArchiveLimits(nodes=2),
        ArchiveLimits(tensor_elements=10),
    ):
        with pytest.raises(UnsafeModelError, match=r"at most|do not fit|are accepted"):
            pt2_archive.check(path, limits)


@pytest.mark.parametrize("text", ["Symbol('s77', positive=True, integer=True)", "Mul(Integer(2), Symbol('s0'))", "s0 + 2*s1", "3"])
def test_size_expressions_are_accepted(text: str) -> None:
    check_expression("models/model.json", text)


@pytest.mark.parametrize(
    "text",
    [
        "exit()",
        "s0.__class__",
        "Symbol('x', cls=exit)",
        "Pow(Integer(9), Integer(999999999))",
        "9**9**9",
        "[s0]",
        "(" * 500,
        "Symbol(exit())",
    ],
)
def test_other_expressions_are_refused(text: str) -> None:
    with pytest.raises(UnsafeModelError):
        check_expression("models/model.json", text)


def test_own_archives_hold_no_pickle_and_read_back_bit_for_bit(tmp_path: Path) -> None:
    network = lift.from_module(seeded(BakedView()), (1, 14, 14))
    path = tmp_path / "model.pt2"
    export.to_pt2(network, path)
    with zipfile.ZipFile(path) as archive:
        sample = [name for name in archive.namelist() if "sample_inputs" in name]
        assert all(archive.read(name) == b"" for name in sample)
    back = lift.from_pt2(path)
    images = torch.randn(7, 1, 14, 14)
    assert torch.equal(back(images), network(images))
    for fact in ("input_shape", "input_name", "output_name", "size_is_free", "size_note", "erased", "is_classifier"):
        assert getattr(back, fact) == getattr(network, fact)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", '"x"', "[]"])
def test_sizes_that_are_no_sizes_are_refused(entries: Entries, tmp_path: Path, number: str) -> None:
    name = "data/weights/model_weights_config.json"
    text, count = re.subn(rb'"as_int": \d+', b'"as_int": ' + number.encode(), entries[name], count=1)
    assert count == 1
    with pytest.raises(UnsafeModelError, match="not a payload configuration"):
        lift.from_pt2(_write(tmp_path / "m.pt2", {**entries, name: text}))
