"""Three ``make demo`` in a row: each holds every gate of the demo, on whatever machine it is. ``make bench-promises-demo``."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.end_to_end import demo
from benchmarks.harness import Check, Results, Row, commit

NAME = "promises_demo"
CELLS = ("demo 1", "demo 2", "demo 3")


def run(results: Results) -> None:
    """Those that have no row of this commit yet: three in a row are of one commit."""
    for cell in CELLS:
        results.cell(cell, demo, again=(results.find(cell) or {}).get("commit") != commit())


def checks(rows: Sequence[Row]) -> list[Check]:
    """The second half of line 1 of "promises"."""
    done = [row for row in rows if row["cell"] in CELLS]
    found = [row for row in done if "speed_up" in row]
    least = {name: min((row[name] for row in found), default=None) for name in ("speed_up", "size_ratio")}
    least |= {name: min((row[name] for row in done), default=None) for name in ("candidates", "front")}
    measured = sum(row["latency_source"] == "measured" for row in found)
    return [
        Check("promises 1 demos in a row", measured, f">= {len(CELLS)}"),
        Check("promises 1 commits of their rows", len({row["commit"] for row in done}), "== 1"),
        Check("promises 1 least candidates", least["candidates"], ">= 12"),
        Check("promises 1 least front", least["front"], ">= 4"),
        Check("promises 1 least speed-up", least["speed_up"], ">= 2"),
        Check("promises 1 least size ratio", least["size_ratio"], ">= 4"),
        Check("promises 1 largest test drop, points", max((row["test_drop_points"] for row in found), default=None), "<= 1.0"),
    ]
