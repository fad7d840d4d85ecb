"""Three ``make demo`` in a row: each holds every gate of the demo, on whatever machine it is. ``make bench-promises-demo``.

Integers are worth the most where the processor has VNNI, so a row names the kind of its machine. Where no other machine is at hand:
``python -m benchmarks.without_avx512 make bench-promises-demo``.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.end_to_end import demo
from benchmarks.harness import Check, Results, Row, commit
from hw_models.targets import get_target

NAME = "promises_demo"
KINDS = ("with VNNI", "without VNNI")
_DEMOS = 3


def cells(kind: str) -> tuple[str, ...]:
    """Names of the demos on one kind of machine."""
    return tuple(f"demo {number} {kind}" for number in range(1, _DEMOS + 1))


def run(results: Results) -> None:
    """Those on this kind of machine that have no row of this commit yet: three in a row are of one commit."""
    for cell in cells(KINDS[get_target("cpu-ort-1t").reduced_weight_range]):
        results.cell(cell, demo, again=(results.find(cell) or {}).get("commit") != commit())


def checks(rows: Sequence[Row]) -> list[Check]:
    """The second half of line 1 of "promises", by kinds of machines."""
    return [check for kind in KINDS for check in _checks(kind, [row for row in rows if row["cell"] in cells(kind)])]


def _checks(kind: str, done: Sequence[Row]) -> list[Check]:
    found = [row for row in done if "speed_up" in row]
    least = {name: min((row[name] for row in found), default=None) for name in ("speed_up", "size_ratio")}
    least |= {name: min((row[name] for row in done), default=None) for name in ("candidates", "front")}
    measured = sum(row["latency_source"] == "measured" for row in found)
    drop = max((row["test_drop_points"] for row in found), default=None)
    return [
        Check(f"promises 1 {kind}: demos in a row", measured, f">= {_DEMOS}"),
        Check(f"promises 1 {kind}: commits of their rows", len({row["commit"] for row in done}), "== 1"),
        Check(f"promises 1 {kind}: least candidates", least["candidates"], ">= 12"),
        Check(f"promises 1 {kind}: least front", least["front"], ">= 4"),
        Check(f"promises 1 {kind}: least speed-up", least["speed_up"], ">= 2"),
        Check(f"promises 1 {kind}: least size ratio", least["size_ratio"], ">= 4"),
        Check(f"promises 1 {kind}: largest test drop, points", drop, "<= 1.0"),
    ]
