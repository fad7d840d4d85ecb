"""Targets and predictions for people: every table is whole at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table
from rich.text import Text

from paretopress.cli import tables
from paretopress.cli.context import print_json, to_dict
from paretopress.v1 import target_pb2

UNCALIBRATED = "uncalibrated: nothing was measured there, the numbers are a roofline's"
FULL_KIT_S = 120.0
"""A calibration that took less was the short kit."""
_GAP, _WIDE_LAYER = 2, 40


@dataclass(frozen=True)
class TargetTable:
    """All targets, and what a search for one can say; their runtimes and titles where the console is wide."""

    targets: Sequence[target_pb2.Target]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich prints."""
        wide = tables.is_wide(options)
        more = ("runtime", "title") if wide else ()
        columns = ("target", "origin", "threads", "precisions", "predictor", "a search", *more)
        justified: dict[str, JustifyMethod] = {column: "right" if column == "threads" else "left" for column in columns}
        table = tables.narrow_table("targets", justified, folds="title" if wide else "target")
        for target in self.targets:
            facts = (str(target.threads), ", ".join(target.precisions), predictor_words(target), search_word(target))
            more = (target.runtime, target.display_name) if wide else ()
            table.add_row(tables.short(target.name), origin_word(target), *facts, *more)
        yield table
        yield Text(
            "a search measures its finalists on this machine's targets; for any other it predicts and decides by the upper bound"
        )


@dataclass(frozen=True)
class ComparisonTable:
    """Predictions of one network on several targets, the fastest first; ``slower`` is against the fastest."""

    predictions: Sequence[target_pb2.TargetPrediction]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich prints."""
        table = tables.narrow_table(
            "predicted latency",
            {"target": "left", "ms": "right", "interval": "right", "slower": "right", "predictor": "left"},
            folds="target",
        )
        ranked = sorted(self.predictions, key=lambda p: p.latency_ms)
        for one in ranked:
            ratio = f"{one.latency_ms / max(ranked[0].latency_ms, 1e-9):.2f}x"
            interval = f"{one.low_ms:.3g} to {one.high_ms:.3g}"
            word = "calibrated" if one.calibrated else "uncalibrated"
            table.add_row(tables.short(one.target), f"{one.latency_ms:.4g}", interval, ratio, word)
        yield table
        if not all(one.calibrated for one in ranked):
            yield Text(UNCALIBRATED)
        if len({one.macs for one in ranked}) > 1:
            yield Text("the recipe makes another network where a target prefers other channel counts")


@dataclass(frozen=True)
class KernelTable:
    """Kernels with their share of the time and what makes them slow: beside them where the console is wide, else below."""

    title: str
    kernels: Sequence[target_pb2.KernelLatency]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich prints."""
        if tables.is_wide(options):
            yield self._wide()
        else:
            yield from self._narrow(options.max_width)

    def _wide(self) -> Table:
        reasons = "what makes it slow"
        table = tables.narrow_table(
            self.title, {"layer": "left", "kind": "left", "ms": "right", "share": "right", reasons: "left"}, folds=reasons
        )
        for kernel in self.kernels:
            name, *numbers = _cells(kernel)
            table.add_row(_shortened(name, _WIDE_LAYER), *numbers, "; ".join(kernel.reasons))
        return table

    def _narrow(self, width: int) -> RenderResult:
        rows = [("layer", "kind", "ms", "share"), *(_cells(kernel) for kernel in self.kernels)]
        kind, ms, share = (max(len(row[i]) for row in rows) for i in (1, 2, 3))
        room = max(width - kind - ms - share - 3 * _GAP, 8)
        layer = min(room, max(len(row[0]) for row in rows))
        gap = " " * _GAP
        lines = [
            gap.join((_shortened(r[0], layer).ljust(layer), r[1].ljust(kind), r[2].rjust(ms), r[3].rjust(share))) for r in rows
        ]
        yield Text(self.title, style="italic")
        yield Text(lines[0], style="bold", no_wrap=True)
        for line, kernel in zip(lines[1:], self.kernels, strict=True):
            yield Text(line, no_wrap=True)
            if kernel.reasons:
                yield Text("  " + "; ".join(kernel.reasons), style="dim")


def origin_word(target: target_pb2.Target) -> str:
    """Who named it."""
    return tables.enum_word(target_pb2.Target.Origin, target.origin).lower()


def show_target(target: target_pb2.Target, as_json: bool) -> None:
    """One target in full."""
    if as_json:
        return print_json(to_dict(target))
    name = tables.short(target.name)
    lines = [
        f"{target.name}  {target.display_name}",
        f"  {origin_word(target)}; {target.device}, {target.runtime} ({target.optimization}), {target.threads} thread(s)",
        f"  {', '.join(target.precisions)}; weights in {', '.join(target.integer_types) or 'float32 only'}; "
        f"channels best a multiple of {target.channel_multiple}",
    ]
    if target.calibrated:
        lines.append(f"  calibrated: {summary_words(target.calibration)}")
        if target.calibration.duration_s < FULL_KIT_S:
            lines.append(f"  that was the short kit; `paretopress targets calibrate {name}` takes longer and predicts better")
    elif target.attached:
        lines.append(f"  not calibrated yet; `paretopress targets calibrate {name}` does it")
    if not target.attached:
        lines.append("  a search for it predicts latencies, and decides by the upper bound; nothing is measured")
    if target.HasField("peaks"):
        peaks = target.peaks
        lines += [
            f"  {UNCALIBRATED}",
            f"  peaks: fp32 {peaks.fp32_gmacs:,g} GMAC/s, int8 {peaks.int8_gmacs:,g} GMAC/s, "
            f"memory {peaks.bandwidth_gb_s:,g} GB/s, {peaks.per_kernel_us:g} us a kernel",
            *(f"  source: {source}" for source in peaks.sources),
        ]
    Console(highlight=False, soft_wrap=True, markup=False).print("\n".join(lines))
    return None


def search_word(target: target_pb2.Target) -> str:
    """What the latencies of a search for it are."""
    return "measures" if target.attached else "predicts"


def predictor_words(target: target_pb2.Target) -> str:
    """What its predictions rest on."""
    if not target.calibrated:
        return "not yet" if target.attached else "data sheet"
    summary = target.calibration
    return f"error {summary.mean_error_percent:.1f}%" if summary.HasField("mean_error_percent") else "calibrated"


def summary_words(summary: target_pb2.CalibrationSummary) -> str:
    """How a predictor came about, in a line."""
    words = [f"{summary.networks} networks in {summary.duration_s:.0f} s on {summary.runtime or 'its runtime'}"]
    if summary.HasField("mean_error_percent"):
        words.append(f"mean error {summary.mean_error_percent:.1f}%")
    if summary.HasField("repeatability_percent"):
        words.append(f"measurements repeat within {summary.repeatability_percent:.1f}%")
    return ", ".join(words)


def most_expensive(kernels: Sequence[target_pb2.KernelLatency], count: int) -> list[target_pb2.KernelLatency]:
    """Those with the largest shares, the largest first."""
    return sorted(kernels, key=lambda kernel: -kernel.share)[:count]


def _cells(kernel: target_pb2.KernelLatency) -> tuple[str, str, str, str]:
    return kernel.name, kernel.kind, f"{kernel.latency_ms:.4f}", f"{kernel.share:.1%}"


def _shortened(text: str, width: int) -> str:
    """The end of a layer's name says more than its beginning."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]
