"""``paretopress searches``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from paretopress.cli import tables
from paretopress.cli.artifacts import fetch_all
from paretopress.cli.budget import (
    BatchSizeOption,
    ConfidenceOption,
    LatencyOption,
    LimitOption,
    MacsOption,
    MaxDropOption,
    MaxSizeOption,
    SizeKindOption,
    make_budget,
)
from paretopress.cli.choices import Preference, SizeKind, number
from paretopress.cli.context import JsonOption, UsageError, print_json, print_messages, state_of, to_dict
from paretopress.cli.live import BASELINE
from paretopress.cli.results import budget_words, show_search
from paretopress.cli.search import follow
from paretopress.v1 import search_pb2

app = typer.Typer(help="Searches, running and ended.", no_args_is_help=True)


@app.command("list")
def list_searches(context: typer.Context, as_json: JsonOption = False) -> None:
    """List searches, newest first."""
    with state_of(context).client() as client:
        searches = list(client.list_searches())
    if as_json:
        return print_messages(searches)
    columns = ("name", "title", "state", "candidates", "best", "budget", "created")
    tables.print_table("searches", columns, (_row(search) for search in searches))
    return None


@app.command()
def show(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Show one search with its front."""
    state = state_of(context)
    with state.client() as client:
        show_search(client, client.get_search(state.full_name("searches", name)), as_json)


@app.command()
def watch(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Replay a search's events and follow it to its end; with --json one event a line."""
    state = state_of(context)
    full_name = state.full_name("searches", name)
    with state.client() as client:
        search = client.get_search(full_name)
        if not as_json:
            return follow(client, search, as_json=False)
        for event in client.watch(full_name):
            Console(soft_wrap=True, highlight=False).print_json(data=to_dict(event), indent=None)
    return None


@app.command()
def cancel(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Ask a search to stop; what it found is kept."""
    state = state_of(context)
    with state.client() as client:
        search = client.cancel_search(state.full_name("searches", name))
    if as_json:
        return print_json(to_dict(search))
    Console(highlight=False, soft_wrap=True).print(
        f"{search.name}  {tables.enum_word(search_pb2.Search.State, search.state)}  {search.state_message}"
    )
    return None


@app.command()
def delete(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Delete a search that has ended, with its candidates."""
    state = state_of(context)
    full_name = state.full_name("searches", name)
    with state.client() as client:
        client.delete_search(full_name)
    if as_json:
        print_json({"deleted": full_name})


@app.command()
def download(
    context: typer.Context,
    name: str,
    artifact: Annotated[list[str] | None, typer.Option(help="file to fetch; repeat; default: all")] = None,
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Download a search's own files, such as report.json; those of a network are its candidate's."""
    state = state_of(context)
    full_name = state.full_name("searches", name)
    with state.client() as client:
        names = artifact or [a.artifact for a in client.get_search(full_name).artifacts]
        if not names:
            raise UsageError(f"{full_name} has no files yet; a report is written when it ends")
        fetch_all(client, full_name, names, out, as_json)


@app.command()
def pick(
    context: typer.Context,
    name: str,
    latency_ms: LatencyOption = None,
    batch_size: BatchSizeOption = 1,
    max_size: MaxSizeOption = None,
    size_kind: SizeKindOption = SizeKind.ONNX_SIZE,
    macs: MacsOption = None,
    max_drop: MaxDropOption = None,
    confidence: ConfidenceOption = 0.0,
    limit: LimitOption = None,
    preference: Annotated[Preference, typer.Option(help="which one is best")] = Preference.FASTEST,
    as_json: JsonOption = False,
) -> None:
    """Pick another best from what was found, under another budget, without a new search. Exit code 3: none is within it."""
    state = state_of(context)
    full_name = state.full_name("searches", name)
    budget = make_budget(latency_ms, batch_size, max_size, size_kind, macs, max_drop, confidence, limit)
    with state.client() as client:
        answer = client.pick_best(full_name, budget, number(preference))
        if as_json:
            print_json(to_dict(answer))
        else:
            baseline = client.get_candidate(f"{full_name}/candidates/{BASELINE}")
            title = "best within this budget" if answer.feasible else "none is within this budget; the nearest"
            tables.table_console().print(tables.CandidateTable(title, [answer.candidate], baseline))
            for broken in answer.broken_limits:
                Console(highlight=False, soft_wrap=True).print(tables.broken_words(broken, answer.candidate))
    if not answer.feasible:
        raise typer.Exit(3)


@app.command()
def extend(
    context: typer.Context,
    name: str,
    trials: Annotated[int, typer.Option(help="more candidates")] = 12,
    wall_time_s: Annotated[float, typer.Option(help="more seconds")] = 600.0,
    detach: Annotated[bool, typer.Option(help="do not follow the search")] = False,
    as_json: JsonOption = False,
) -> None:
    """Give a search that has ended more trials."""
    state = state_of(context)
    full_name = state.full_name("searches", name)
    with state.client() as client:
        before = client.get_search(full_name).last_sequence
        search = client.extend_search(full_name, trials, wall_time_s)
        if detach:
            show_search(client, search, as_json)
        else:
            follow(client, search, as_json, before)


def _row(search: search_pb2.Search) -> list[str]:
    state = tables.enum_word(search_pb2.Search.State, search.state)
    names = [tables.short(search.name), search.display_name, state, str(search.candidate_count)]
    return [*names, tables.short(search.best), budget_words(search.budget), tables.when(search.create_time)]
