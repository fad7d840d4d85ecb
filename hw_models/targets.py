"""Targets: where a network will run. A device, a runtime, threads, and the facts that techniques and search read."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from hw_models.errors import TargetError

Precision = Literal["fp32", "int8"]
FORMATS: Mapping[Precision, tuple[int, int]] = {"fp32": (32, 32), "int8": (8, 8)}
Optimization = Literal["all", "extended", "basic", "none"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Peaks:
    """What a data sheet says of a device: rates that a kernel never exceeds.

    Attributes:
        fp32_gmacs, int8_gmacs: billions of multiply-accumulates a second; int8 is 0 where the device has no such units.
        bandwidth_gb_s: of its memory.
        per_kernel_us: what starting a kernel takes at least.
        sources: where the figures come from.
    """

    fp32_gmacs: float
    int8_gmacs: float
    bandwidth_gb_s: float
    per_kernel_us: float
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("fp32_gmacs", "bandwidth_gb_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise TargetError(f"peaks.{name} must be above 0, got {getattr(self, name)}")
        for name in ("int8_gmacs", "per_kernel_us"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise TargetError(f"peaks.{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Target:
    """A place where networks run.

    Attributes:
        name: identifier, lower-case letters, digits and hyphens.
        precisions: in which a network may run there.
        channel_multiple: channel counts that are multiples of it use the vector units fully.
        unsigned_activations: whether uint8 activations are quicker than int8 ones.
        reduced_weight_range: whether its integer kernels add two products in 16 bits, as x86 without VNNI does: int8 weights must
            then leave room, or sums saturate. True where it is not known.
        layout_block: channels per block of the runtime's blocked float32 layout: the floats in one vector register.
        integer_types: types that the runtime stores weights in and still runs as int8.
        optimization: the runtime's graph optimisation level; another level is another program.
        cache_bytes: of the last cache before memory; what is larger comes from memory in every run.
        attached: whether this machine is the target, so that latency can be measured and not only predicted.
        peaks: of a target that is known from its data sheet only; its predictions always say *uncalibrated*.
    """

    name: str
    display_name: str
    device: str
    runtime: str
    threads: int
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    channel_multiple: int = 8
    unsigned_activations: bool = True
    reduced_weight_range: bool = True
    layout_block: int = 8
    integer_types: tuple[str, ...] = ("uint8", "int8")
    optimization: Optimization = "all"
    cache_bytes: int = 32 * 2**20
    attached: bool = True
    peaks: Peaks | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise TargetError(f"name must be 1 to 63 of a-z, 0-9 and inner hyphens, got {self.name!r}")
        for field in ("threads", "channel_multiple", "layout_block", "cache_bytes"):
            if getattr(self, field) < 1:
                raise TargetError(f"{self.name}: {field} must be at least 1, got {getattr(self, field)}")
        unknown = sorted(set(self.precisions) - set(get_args(Precision)))
        if unknown or not self.precisions:
            raise TargetError(f"{self.name}: precisions must be some of {list(get_args(Precision))}, got {list(self.precisions)}")
        if self.optimization not in get_args(Optimization):
            raise TargetError(f"{self.name}: optimization must be one of {list(get_args(Optimization))}, got {self.optimization!r}")

    @property
    def formats(self) -> tuple[tuple[int, int], ...]:
        """Bits of weights and of activations that its runtime runs as such."""
        return tuple(FORMATS[precision] for precision in self.precisions)

    @property
    def proving_optimization(self) -> Optimization:
        """The level at which this machine runs the target's files. One that is elsewhere has kernels of its own; its files are run
        here as they are written, without fusing integers into kernels whose sums this processor may cut off.
        """
        return self.optimization if self.attached else "basic"

    def to_json(self) -> str:
        """Canonical text with type and version."""
        return json.dumps({"type": "target", "version": 1, **asdict(self)}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Target:
        """Read what `to_json` wrote.

        Raises:
            TargetError: not a target of a known version, or one with bad fields.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if data.pop("type") != "target" or data.pop("version") != 1:
                raise TargetError("not a target of a known version")
            unknown = sorted(set(data) - {f.name for f in fields(Target)})
            if unknown:
                raise TargetError(f"target: unknown fields {unknown}")
            tuples = {name: tuple(data[name]) for name in ("precisions", "integer_types")}
            peaks = data.pop("peaks", None)
            if peaks is not None:
                peaks = Peaks(**{**peaks, "sources": tuple(peaks["sources"])})
            return Target(**{**data, **tuples, "peaks": peaks})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TargetError(f"not a target: {error!r}") from error


def physical_cores() -> int:
    """Physical cores that this process may use; logical ones where the system does not tell."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for processor in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{processor}/topology")
        try:
            cores.add(((topology / "physical_package_id").read_text(), (topology / "core_id").read_text()))
        except OSError:
            return len(allowed)
    return len(cores)


def _vector_floats() -> int:
    """Float32 values in a vector register: 16 with AVX-512, else the 8 that ONNX Runtime's blocked layout starts from."""
    try:
        return 16 if "avx512f" in Path("/proc/cpuinfo").read_text() else 8
    except OSError:
        return 8


def _adds_products_in_16_bits() -> bool:
    """Whether this machine's int8 kernels saturate: x86 without VNNI (``vpmaddubsw``); ARM's and VNNI's add in 32 bits."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "i386"):
        return False
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return True
    return not flags & {"avx_vnni", "avx512_vnni"}


def _last_cache_bytes() -> int:
    """As the system tells; 32 MiB where it does not."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text().strip()
            sizes.append(int(text.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(text[-1], 1))
    return max(sizes, default=32 * 2**20)


def builtin_targets() -> tuple[Target, ...]:
    """The targets that every installation has: this machine, on one thread and on all physical cores."""
    cores, block = physical_cores(), _vector_floats()
    facts: dict[str, Any] = {
        "layout_block": block,
        "cache_bytes": _last_cache_bytes(),
        "reduced_weight_range": _adds_products_in_16_bits(),
    }
    return (
        Target("cpu-ort-1t", "This CPU, ONNX Runtime, one thread", "cpu", "onnxruntime", 1, **facts),
        Target("cpu-ort-all", f"This CPU, ONNX Runtime, all {cores} cores", "cpu", "onnxruntime", cores, **facts),
        Target(
            "cpu-ort-1t-extended",
            "This CPU, ONNX Runtime without blocked layouts, one thread",
            "cpu",
            "onnxruntime",
            1,
            optimization="extended",
            **facts,
        ),
    )


def is_builtin(name: str) -> bool:
    """Whether it names a target of this machine."""
    return any(target.name == name for target in builtin_targets())


def get_target(name: str) -> Target:
    """The built-in target of that name.

    Raises:
        TargetError: there is none; the message lists those there are.
    """
    known = {target.name: target for target in builtin_targets()}
    if name not in known:
        raise TargetError(f"unknown target {name!r}; known are {sorted(known)}")
    return known[name]
