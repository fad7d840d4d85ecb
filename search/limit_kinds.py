"""What a budget can limit, by the name of its measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SIZE_SUFFIX = "_size_bytes"
"""Of the names of sizes of files."""


@dataclass(frozen=True)
class LimitKind:
    """Something that can be limited, by the name of its measurement.

    Attributes:
        least: no network takes less: a limit below is a wrong unit.
        doubt: how many times too high a price may be before it is known that nothing comes so low. Latencies are taken at the
            optimistic end of their interval; sizes of files are estimates within some percent, and how well a container packs is
            not known.
        packs: how many times smaller than its price it may come out.
        priced: whether it is predicted or counted before anything is built; finalists alone are read for the others.
    """

    name: str
    least: float
    doubt: float = 1.1
    packs: float = 1.0
    priced: bool = True


_KINDS: dict[str, LimitKind] = {
    kind.name: kind
    for kind in (
        LimitKind("latency_ms", 0.001, 1.5),
        LimitKind("onnx_size_bytes", 100),
        LimitKind("download_size_bytes", 100, 2.0, packs=2.0),
        LimitKind("weight_size_bytes", 1),
        LimitKind("macs", 1),
        LimitKind("parameters", 1),
    )
}
KINDS: Mapping[str, LimitKind] = _KINDS


def add_kind(kind: LimitKind) -> None:
    """Something else can be limited, too.

    Raises:
        ValueError: the name is taken.
    """
    if kind.name in _KINDS:
        raise ValueError(f"limit {kind.name!r} is there already")
    _KINDS[kind.name] = kind
