"""Tables for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table
from rich.text import Text

from paretopress.runtime.settled import has_settled
from paretopress.v1 import search_pb2

DECIDING_SPLITS = ("selection", "validation")
_WIDE = 110
_PIPE_WIDTH = 500
_FRAMELESS = {"box": box.SIMPLE_HEAD, "show_edge": False, "padding": (0, 1, 0, 0), "pad_edge": False}


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table; the first column, a name, is never split."""
    table = Table(title=title, title_justify="left", **_FRAMELESS)  # type: ignore[arg-type]
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    table_console().print(table)


def table_console() -> Console:
    """As wide as the terminal; in a pipe, as any table needs, unless ``COLUMNS`` says otherwise."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_PIPE_WIDTH if piped else None)


def narrow_table(title: str, columns: Mapping[str, JustifyMethod], folds: str) -> Table:
    """A table without frames. Only the column ``folds`` does, so that the others stay whole on a narrow console."""
    table = Table(title=title, title_justify="left", **_FRAMELESS)  # type: ignore[arg-type]
    for column, justify in columns.items():
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column != folds)
    return table


def is_wide(options: ConsoleOptions) -> bool:
    """Whether there is room for sentences beside numbers."""
    return options.max_width >= _WIDE


def broken_words(broken: search_pb2.BrokenLimit, candidate: search_pb2.Candidate | None) -> str:
    """By how much a limit is broken; where that is an upper bound, which one, for tables show the value itself."""
    found = candidate.measurements.get(broken.limit) if candidate is not None and broken.limit in candidate.measurements else None
    bound = f": its upper bound is {found.value + found.spread:.3g}" if found is not None and found.spread else ""
    return f"breaks {broken.limit} by {broken.excess:.4g}{bound}"


def legend(candidates: Sequence[search_pb2.Candidate]) -> str:
    """What the mark of a predicted number means, where there is one."""
    latencies = [c.measurements["latency_ms"] for c in candidates if "latency_ms" in c.measurements]
    return " (~ predicted)" if any(one.source != one.MEASURED for one in latencies) else ""


def count(number: int) -> str:
    """A large number in few characters.

    >>> count(950), count(130_980), count(19_759_616)
    ('950', '131 k', '19.8 M')
    """
    for unit, least in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= least:
            return f"{number / least:.3g} {unit}"
    return str(number)


def enum_word(kind: Any, number: int) -> str:
    """An enum's name; a newer server may send a number that this client does not know."""
    return str(kind.Name(number)) if number in kind.values() else f"UNKNOWN_{number}"


def short(name: str) -> str:
    """Last part of a name."""
    return name.rpartition("/")[2]


def when(timestamp: Any) -> str:
    """A proto timestamp in local time."""
    return str(timestamp.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M"))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"


@dataclass(frozen=True)
class CandidateTable:
    """Accuracy, drop with interval, ms, speed-up, size and ratio against the original; predicted numbers carry a ~.

    The steps of a recipe are the last column where the console is wide, and lines below where it is not.
    """

    title: str
    candidates: Sequence[search_pb2.Candidate]
    baseline: search_pb2.Candidate | None
    best: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich prints."""
        wide = is_wide(options)
        style = {"box": box.SIMPLE_HEAD, "show_edge": False, "padding": (0, 1 if wide else 0, 0, 0), "pad_edge": False}
        table = Table(title=self.title, title_justify="left", **style)  # type: ignore[arg-type]
        for column in ("candidate", "accuracy", "drop (95%)", "ms", "speed-up", "size", "ratio"):
            table.add_column(column, justify="left" if column == "candidate" else "right", no_wrap=True)
        if wide:
            table.add_column("steps", overflow="fold")
        marks = {self.best: " *"}
        rows = [] if self.baseline is None else [_row(self.baseline, None, marks.get(self.baseline.name, ""))]
        rows += [_row(c, self.baseline, marks.get(c.name, "")) for c in self.candidates]
        for row in rows:
            table.add_row(*(row if wide else row[:-1]))
        yield table
        if not wide:
            for name, *_, steps in rows:
                yield Text(f"{name}: {steps}")


def _row(candidate: search_pb2.Candidate, baseline: search_pb2.Candidate | None, mark: str) -> list[str]:
    accuracy, drop = accuracy_words(candidate)
    latency, onnx_size = candidate.measurements.get("latency_ms"), candidate.measurements.get("onnx_size_bytes")
    return [
        short(candidate.name) + mark,
        accuracy,
        drop if baseline is not None else "",
        _milliseconds(latency),
        _ratio(baseline, "latency_ms", latency),
        size(onnx_size.value) if onnx_size else "",
        _ratio(baseline, "onnx_size_bytes", onnx_size),
        steps_of(candidate),
    ]


def accuracy_words(candidate: search_pb2.Candidate) -> tuple[str, str]:
    """Accuracy and drop on the split that decides: selection where known, validation before."""
    split = next((s for s in DECIDING_SPLITS if s in candidate.accuracies), "")
    if not split:
        return "", ""
    accuracy = candidate.accuracies[split]
    drop = f"{accuracy.drop_points:+.2f} ({accuracy.drop_points_low:+.2f}..{accuracy.drop_points_high:+.2f})"
    return f"{accuracy.value:.2%}", drop if accuracy.HasField("drop_points") else ""


def steps_of(candidate: search_pb2.Candidate) -> str:
    """Techniques of a recipe, in order."""
    steps = json.loads(candidate.recipe_json).get("steps", []) if candidate.recipe_json else []
    return ", ".join(step["technique"] for step in steps) or "original"


def _milliseconds(latency: Any) -> str:
    if latency is None:
        return ""
    predicted = latency.source != latency.MEASURED
    spread = "" if predicted or not latency.spread else f" ±{latency.spread:.2g}"
    return f"{'~' if predicted else ''}{latency.value:.3g}{spread}"


def _ratio(baseline: search_pb2.Candidate | None, name: str, value: Any) -> str:
    if baseline is None or value is None or name not in baseline.measurements or not value.value:
        return ""
    original = baseline.measurements[name]
    # A prediction against a measurement compares two scales: no ratio is shown.
    if original.source != value.source:
        return ""
    settled = all(has_settled(one.value, one.spread) for one in (original, value))
    return f"{original.value / value.value:.2f}x" if settled or value.source != value.MEASURED else "unsettled"
