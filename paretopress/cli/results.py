"""How a search is shown when it is asked for, or has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from paretopress.cli import tables
from paretopress.cli.context import print_json, to_dict
from paretopress.cli.live import BASELINE
from paretopress.client import Client
from paretopress.errors import RequestRefusedError
from paretopress.v1 import search_pb2

EXIT_CODES = {search_pb2.Search.FAILED: 1, search_pb2.Search.CANCELLED: 1, search_pb2.Search.INFEASIBLE: 3}


def show_search(client: Client, search: search_pb2.Search, as_json: bool) -> None:
    """State, table of the original and the front, and what to do next."""
    baseline, shown = _candidates(client, search)
    places = _places(client, search)
    if as_json:
        return print_json({**_as_json(search, baseline, shown), "places": places})
    console = Console(highlight=False, soft_wrap=True)
    state = tables.enum_word(search_pb2.Search.State, search.state)
    console.print(f"{search.name}  {state}  {search.state_message}", markup=False)
    console.print(f"  {search.candidate_count} candidates, target {tables.short(search.target)}, {budget_words(search.budget)}")
    if search.HasField("end_time"):
        console.print(f"  {_took(search)}")
    if places:
        console.print(f"  {places}", markup=False)
    note = _split_note(client, search)
    if note:
        console.print(f"  {note}", markup=False)
    known = [*shown, *([baseline] if baseline else [])]
    nearest = next((c for c in known if c.name == search.nearest), None)
    for limit in search.broken_limits:
        console.print(f"  the nearest, {tables.short(search.nearest)}, {tables.broken_words(limit, nearest)}")
    if known:
        best = search.best or search.nearest
        title = f"* {'best' if search.best else 'nearest'}; accuracy on the {_split_of(known)} split{tables.legend(shown)}"
        console.print(tables.CandidateTable(title, shown, baseline, best), soft_wrap=False)
    if search.best:
        console.print(f"next: paretopress candidates download {search.best}")
    return None


def _took(search: search_pb2.Search) -> str:
    took_s = (search.end_time.ToNanoseconds() - search.start_time.ToNanoseconds()) / 1e9
    limit_s = search.effort.max_wall_time.ToTimedelta().total_seconds()
    inputs = f"model {tables.short(search.model)}, dataset {tables.short(search.dataset)}"
    return f"{inputs}, took {took_s:.0f} s of at most {limit_s:.0f} s"


def _candidates(client: Client, search: search_pb2.Search) -> tuple[search_pb2.Candidate | None, list[search_pb2.Candidate]]:
    every = {c.name: c for c in client.list_candidates(search.name)}
    baseline = every.get(f"{search.name}/candidates/{BASELINE}")
    names = list(search.front) or [name for name in (search.best, search.nearest) if name]
    return baseline, [every[name] for name in names if name in every and not name.endswith(f"/{BASELINE}")]


def _split_of(candidates: Sequence[search_pb2.Candidate]) -> str:
    """The split that a table's accuracies are of: selection once anything was read on it."""
    return next((split for split in tables.DECIDING_SPLITS if any(split in one.accuracies for one in candidates)), "validation")


def _split_note(client: Client, search: search_pb2.Search) -> str:
    """What concerns every accuracy of a data set that the server has split; empty where its owner did, or it is gone."""
    try:
        note = client.get_dataset(search.dataset).split_note
    except RequestRefusedError:
        return ""
    return f"accuracies: {note}" if "server" in note else ""


def _places(client: Client, search: search_pb2.Search) -> str:
    """What the search leaves alone and why, in one sentence; empty while it runs. It was told before the first candidate."""
    if not search.HasField("end_time"):
        return ""
    for event in client.watch(search.name):
        if "places" in event.payload.fields:
            return event.payload.fields["places"].string_value
        if event.kind == event.CANDIDATE:
            break
    return ""


def _as_json(search: search_pb2.Search, baseline: search_pb2.Candidate | None, shown: list[search_pb2.Candidate]) -> dict[str, Any]:
    by_name = {c.name: to_dict(c) for c in [*shown, *([baseline] if baseline else [])]}
    return {
        "search": to_dict(search),
        "baseline": to_dict(baseline) if baseline else None,
        "best": by_name.get(search.best),
        "nearest": by_name.get(search.nearest),
        "front": [by_name[name] for name in search.front if name in by_name],
    }


def budget_words(budget: search_pb2.Budget) -> str:
    """The limits in one line."""
    words = []
    if budget.HasField("latency_ms"):
        words.append(f"at most {budget.latency_ms:g} ms")
    if budget.HasField("size_bytes"):
        words.append(f"at most {tables.size(budget.size_bytes)}")
    if budget.HasField("macs"):
        words.append(f"at most {budget.macs:,} MACs")
    words += [f"{name} at most {most:g}" for name, most in sorted(budget.limits.items())]
    if budget.HasField("max_accuracy_drop_points"):
        words.append(f"at most {budget.max_accuracy_drop_points:g} points less")
    return ", ".join(words)
