"""How benchmarks are recorded: rows as they are done, checks computed from the rows, both in ``benchmarks/results``.

A benchmark is a module here with ``NAME``, ``run(results)`` and ``checks(rows)``; ``make bench-<name>`` runs it and
``make bench-checks`` computes every check again from the committed rows. ``holds`` is never typed.
"""

from __future__ import annotations

import datetime
import importlib
import json
import multiprocessing
import operator
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq,
}  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One line of an issue's "Must show".

    Attributes:
        must_show: the issue's slug and the line's number, such as ``end-to-end 1``; a word may say which part.
        figure: what was measured, or the id of the test that proves the line.
        goal: a comparison such as ``>= 2``; for a test, ``passes``.
        passed: for a test: whether its row says so.
    """

    must_show: str
    figure: float | str | None
    goal: str
    kind: Literal["gate", "goal"] = "gate"
    passed: bool = False

    @property
    def holds(self) -> bool:
        """Computed from figure and goal; what was not measured does not hold."""
        if self.goal == "passes":
            return self.passed
        if self.figure is None or isinstance(self.figure, str):
            return False
        sign, limit = self.goal.split()
        return _COMPARISONS[sign](self.figure, float(limit))

    def to_json(self) -> dict[str, Any]:
        """As committed."""
        return {
            "must_show": self.must_show,
            "figure": self.figure,
            "goal": self.goal,
            "kind": self.kind,
            "holds": self.holds,
        }


@dataclass
class Results:
    """The rows of one benchmark; each is written to disk as soon as it is there, so that a killed run resumes."""

    name: str
    rows: list[Row] = field(default_factory=list)

    @staticmethod
    def open(name: str) -> Results:
        """What an earlier run left."""
        path = RESULTS / f"{name}.json"
        return Results(name, json.loads(path.read_text())["rows"] if path.exists() else [])

    def find(self, cell: str) -> Row | None:
        """The row of a cell that is done."""
        return next((row for row in self.rows if row["cell"] == cell), None)

    def cell(self, cell: str, measure: Callable[[], Row], again: bool = False) -> Row:
        """The cell's row: from an earlier run, or measured now and written."""
        found = self.find(cell)
        if found is not None and not again:
            return found
        stamp = {"commit": commit(), "date": datetime.date.today().isoformat(), "machine": machine()}
        row = {"cell": cell, **measure(), **stamp}
        self.rows = [r for r in self.rows if r["cell"] != cell] + [row]
        self.write(())
        return row

    def write(self, checks: Iterable[Check]) -> None:
        """Write ``<name>.json`` and ``<name>.md``."""
        RESULTS.mkdir(exist_ok=True)
        listed = [check.to_json() for check in checks]
        head = {
            "name": self.name,
            "machine": machine(),
            "date": datetime.date.today().isoformat(),
            "command": f"make bench-{self.name.replace('_', '-')}",
            "commit": commit(),
        }
        (RESULTS / f"{self.name}.json").write_text(json.dumps({**head, "rows": self.rows, "checks": listed}, indent=1) + "\n")
        (RESULTS / f"{self.name}.md").write_text(_markdown(head, self.rows, listed))


def measured_apart(measure: Callable[..., Row], *arguments: Any, limit_s: float) -> Row:
    """The row, measured in a process of its own; one that dies or takes longer is a row with an ``error``."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(measure, *arguments)
        try:
            return future.result(limit_s)
        except TimeoutError:
            for process in list(pool._processes.values()):
                process.kill()
            return {"error": f"not done after {limit_s:g} s"}
        except BrokenExecutor as error:
            return {"error": f"its process died: {error}"}


def run_tests(node_ids: Iterable[str]) -> list[Row]:
    """Run tests (or files) in one go, so that they share their fixtures; a row each says whether all of it passed."""
    wanted = list(node_ids)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={path}", *wanted]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        cases = list(ElementTree.parse(path).iter("testcase")) if path.exists() else []
    rows = []
    for node in wanted:
        file, _, name = node.partition("::")
        module = file.removesuffix(".py").replace("/", ".")
        mine = [c for c in cases if f"{c.get('classname')}.".startswith(f"{module}.") and (not name or c.get("name") == name)]
        # A test that was skipped has shown nothing.
        bad = [c for c in mine if any(c.find(word) is not None for word in ("failure", "error", "skipped"))]
        rows.append({"test": node, "passed": bool(mine) and not bad, "cases": len(mine)})
    return rows


def test_check(rows: Sequence[Row], must_show: str, node_id: str) -> Check:
    """The check of a line that a test proves."""
    row = next((r for r in rows if r.get("test") == node_id), None)
    return Check(must_show, node_id, "passes", "gate", bool(row and row["passed"]))


def commit() -> str:
    """The short commit that the figures belong to; ``-dirty`` where files other than results differ from it."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "status", "--porcelain", "--", ".", ":!benchmarks/results"], cwd=ROOT, capture_output=True)
    return f"{done.stdout.strip() or 'unknown'}{'-dirty' if changed.stdout else ''}"


def machine() -> str:
    """Processor and number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = set(" ".join(line for line in lines if line.startswith("flags")).split())
    vectors = next((f"{one}, " for one in ("avx512_vnni", "avx_vnni", "avx512f", "avx2") if one in flags), "")
    return f"{name}, {os.cpu_count()} cores, {vectors}Python {platform.python_version()}"


def _markdown(head: dict[str, Any], rows: Sequence[Row], checks: Sequence[dict[str, Any]]) -> str:
    lines = [f"# {head['name']}", "", *(f"- {key}: {head[key]}" for key in ("machine", "date", "command", "commit")), ""]
    if checks:
        lines += ["| must show | kind | figure | goal | holds |", "|---|---|---|---|---|"]
        lines += [f"| {c['must_show']} | {c['kind']} | {_cell(c['figure'])} | {c['goal']} | {c['holds']} |" for c in checks]
        lines.append("")
    keys = list(dict.fromkeys(k for row in rows for k, v in row.items() if not isinstance(v, dict | list)))
    if rows:
        lines += ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
        lines += ["| " + " | ".join(_cell(row.get(k, "")) for k in keys) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_checks() -> int:
    """Compute all checks again from the committed rows; the number of gates that do not hold."""
    missed = 0
    for path in sorted(RESULTS.glob("*.json")):
        results = Results.open(path.stem)
        checks = importlib.import_module(f"benchmarks.{path.stem}").checks(results.rows)
        for check in checks:
            missed += check.kind == "gate" and not check.holds
            mark = "holds " if check.holds else "MISSED"
            print(f"{mark} {check.kind:4} {check.must_show:34} {_cell(check.figure)} against {check.goal}")
    return missed


def main(name: str) -> None:
    """Run a benchmark module and write its checks."""
    module = importlib.import_module(f"benchmarks.{name}")
    results = Results.open(name)
    module.run(results)
    results.write(module.checks(results.rows))


if __name__ == "__main__":
    if sys.argv[1:] == ["checks"]:
        sys.exit(bool(print_checks()))
    main(sys.argv[1])
