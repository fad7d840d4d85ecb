from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hw_models.errors import TargetError
from hw_models.targets import Target, _adds_products_in_16_bits, builtin_targets, get_target, physical_cores


def test_builtin_targets_are_this_machine() -> None:
    one, every, extended = builtin_targets()
    assert (one.name, one.threads) == ("cpu-ort-1t", 1)
    assert (every.name, every.threads) == ("cpu-ort-all", physical_cores())
    assert one.attached
    assert every.attached
    assert (extended.name, extended.threads, extended.optimization) == ("cpu-ort-1t-extended", 1, "extended")


def test_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(TargetError, match="cpu-ort-1t"):
        get_target("cpu-ort-1")


def test_json_round_trip() -> None:
    target = replace(get_target("cpu-ort-1t"), name="board", precisions=("fp32",), attached=False)
    assert Target.from_json(target.to_json()) == target


@dataclass(frozen=True)
class BadCase:
    field: str
    value: Any
    says: str


BAD = [
    BadCase("name", "CPU 1", "name must be"),
    BadCase("threads", 0, "threads"),
    BadCase("precisions", (), "precisions"),
    BadCase("precisions", ("fp8",), "precisions"),
    BadCase("optimization", "most", "optimization"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda c: f"{c.field}={c.value}")
def test_contradictory_targets_are_refused(case: BadCase) -> None:
    with pytest.raises(TargetError, match=case.says):
        replace(get_target("cpu-ort-1t"), **{case.field: case.value})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "target", "version": 2}'], ids=["empty", "list", "object", "version"])
def test_foreign_json_is_refused(text: str) -> None:
    with pytest.raises(TargetError):
        Target.from_json(text)


@dataclass(frozen=True)
class Processor:
    label: str
    machine: str
    flags: str
    reduced: bool


PROCESSORS = [
    Processor("AVX2 alone", "x86_64", "sse4_2 avx2", True),
    Processor("AVX-512 without VNNI", "x86_64", "avx2 avx512f avx512bw", True),
    Processor("AVX-512 with VNNI", "x86_64", "avx2 avx512f avx512_vnni", False),
    Processor("AVX with VNNI", "x86_64", "avx2 avx_vnni", False),
    Processor("ARM", "aarch64", "asimd asimddp", False),
]


@pytest.mark.parametrize("case", PROCESSORS, ids=lambda c: c.label)
def test_weights_are_reduced_where_products_are_added_in_16_bits(case: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: case.machine)
    monkeypatch.setattr(Path, "read_text", lambda _path: f"flags\t\t: fpu {case.flags} rdpid\n")
    assert _adds_products_in_16_bits() == case.reduced
