"""A search as it goes on: a progress bar, what is being done, what happens, and the growing front."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from paretopress.cli import tables
from paretopress.client import Client
from paretopress.errors import ClientError
from paretopress.v1 import search_pb2

BASELINE = "baseline"
_SHOWN_MEMBERS = 8
_ASKED_EVERY_S, _LINE_EVERY_S = 1.0, 30.0


class LiveSearch:
    """Follows one search's events and progress; on a terminal as a live display that moves every second, elsewhere as lines."""

    def __init__(self, client: Client, search: search_pb2.Search) -> None:
        self._client = client
        self._search = search
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._console)
        self._task = self._progress.add_task("queued", total=search.effort.max_trials)
        self._candidates: dict[str, search_pb2.Candidate] = {}
        self._at, self._at_time = search.progress, time.monotonic()
        self._over = threading.Event()
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveSearch:
        if self._console.is_terminal:
            self._live.start()
        threading.Thread(target=self._ask, name="progress", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._live.stop()

    def _ask(self) -> None:
        """The thread that asks what the search is at; what fails is told by the stream of events."""
        told_at = time.monotonic()
        while not self._over.wait(_ASKED_EVERY_S):
            try:
                self._at, self._at_time = self._client.get_search(self._search.name).progress, time.monotonic()
            except ClientError:
                continue
            words = progress_words(self._at)
            if words and not self._console.is_terminal and time.monotonic() - told_at > _LINE_EVERY_S:
                told_at = time.monotonic()
                self._console.print(f"     progress    {words}", markup=False, soft_wrap=True)

    def show(self, event: search_pb2.SearchEvent) -> None:
        """Take in one event."""
        payload = event.payload.fields
        if "candidate" in payload:
            self._fetch(payload["candidate"].string_value)
        kind = tables.enum_word(search_pb2.SearchEvent.Kind, event.kind).lower()
        if event.kind in (event.PHASE, event.STATE):
            self._progress.update(self._task, description=event.message[:60] or kind)
        if not self._console.is_terminal or event.kind == event.WARNING:
            self._console.print(f"{event.sequence:4d} {kind:11s} {event.message}", markup=False, soft_wrap=True)
        done = sum(tables.short(name) != BASELINE for name in self._candidates)
        self._progress.update(self._task, completed=done)

    def _fetch(self, candidate_id: str) -> None:
        name = f"{self._search.name}/candidates/{candidate_id}"
        self._candidates[name] = self._client.get_candidate(name)

    def _render(self) -> RenderableType:
        baseline = self._candidates.get(f"{self._search.name}/candidates/{BASELINE}")
        others = [c for name, c in self._candidates.items() if tables.short(name) != BASELINE]
        members = growing_front(others)[:_SHOWN_MEMBERS]
        words = progress_words(self._at, time.monotonic() - self._at_time)
        head = Group(self._progress, Text(words, no_wrap=True, overflow="ellipsis")) if words else self._progress
        if baseline is None and not members:
            return head
        return Group(head, tables.CandidateTable("front so far (~ predicted)", members, baseline))


def progress_words(at: search_pb2.SearchProgress, since_s: float = 0.0) -> str:
    """What a search is at, in a line: trial, rung, epoch, and the time that is left; empty where it is at nothing.

    Args:
        since_s: how long ago that was asked.
    """
    if not at.phase:
        return ""
    trained = f", epoch {at.epoch:.2g} of {at.epochs:.2g}" if at.epochs else ""
    parts = [f"{at.phase}: {at.message}" if at.message else at.phase]
    if at.candidate:
        parts.append(f"{at.candidate} at rung {at.rung} of {at.rungs - 1}{trained}")
    left_s = max(at.remaining.ToSeconds() - since_s, 0.0)
    parts.append(f"at most {_clock(left_s)} left")
    return "; ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def growing_front(candidates: Sequence[search_pb2.Candidate]) -> list[search_pb2.Candidate]:
    """The non-dominated candidates in drop, latency and size, fastest first; what has a missing number is left out."""
    points = {c.name: point for c in candidates if (point := _point(c)) is not None}
    members = [
        c
        for c in candidates
        if c.name in points and not any(_dominates(other, points[c.name]) for name, other in points.items() if name != c.name)
    ]
    return sorted(members, key=lambda c: points[c.name][1])


def _point(candidate: search_pb2.Candidate) -> tuple[float, float, float] | None:
    split = next((s for s in tables.DECIDING_SPLITS if s in candidate.accuracies), "")
    names = ("latency_ms", "onnx_size_bytes")
    if not split or candidate.state == candidate.FAILED or any(n not in candidate.measurements for n in names):
        return None
    latency, size = (candidate.measurements[name].value for name in names)
    return candidate.accuracies[split].drop_points, latency, size


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)
