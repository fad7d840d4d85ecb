"""``paretopress candidates``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from paretopress.cli import tables
from paretopress.cli.artifacts import fetch_all
from paretopress.cli.context import JsonOption, UsageError, print_json, print_messages, state_of, to_dict
from paretopress.cli.live import BASELINE
from paretopress.client import Client
from paretopress.v1 import search_pb2

app = typer.Typer(help="Networks that searches have tried.", no_args_is_help=True)


@app.command("list")
def list_candidates(
    context: typer.Context,
    search: str,
    front: Annotated[bool, typer.Option(help="only the front")] = False,
    as_json: JsonOption = False,
) -> None:
    """List a search's candidates, by trial."""
    state = state_of(context)
    full_name = state.full_name("searches", search)
    with state.client() as client:
        best = client.get_search(full_name).best
        candidates = list(client.list_candidates(full_name, front_only=front))
        if as_json:
            return print_messages(candidates)
        baseline = next((c for c in candidates if tables.short(c.name) == BASELINE), None) or _baseline(client, full_name)
    others = [c for c in candidates if tables.short(c.name) != BASELINE]
    tables.table_console().print(tables.CandidateTable("candidates (~ predicted)", others, baseline, best))
    return None


@app.command()
def show(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """Show one candidate: SEARCH/CANDIDATE, or its full name."""
    full_name = _candidate_name(context, name)
    with state_of(context).client() as client:
        candidate = client.get_candidate(full_name)
        if as_json:
            return print_json(to_dict(candidate))
        baseline = _baseline(client, full_name.rpartition("/candidates/")[0])
    console = Console(highlight=False)
    title = tables.enum_word(search_pb2.Candidate.State, candidate.state).lower()
    console.print(tables.CandidateTable(title, [candidate], baseline))
    console.print_json(candidate.recipe_json)
    console.print(f"files: {', '.join(a.artifact for a in candidate.artifacts) or 'none'}")
    if candidate.node:
        console.print(f"node: {candidate.node}")
    if candidate.error:
        console.print(f"error: {candidate.error}", markup=False)
    return None


@app.command()
def download(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="SEARCH/CANDIDATE, or its full name")],
    artifact: Annotated[list[str] | None, typer.Option(help="file to fetch; repeat; default: all")] = None,
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Download a candidate's files; each is checked against its sha256."""
    full_name = _candidate_name(context, name)
    with state_of(context).client() as client:
        names = artifact or [a.artifact for a in client.get_candidate(full_name).artifacts]
        fetch_all(client, full_name, names, out, as_json)


def _candidate_name(context: typer.Context, text: str) -> str:
    if text.startswith("projects/"):
        return text
    search, slash, candidate = text.partition("/")
    if not slash or not candidate:
        raise UsageError(f"{text!r}: name a candidate as SEARCH/CANDIDATE, such as s-1234/c0007")
    return f"{state_of(context).full_name('searches', search)}/candidates/{candidate}"


def _baseline(client: Client, search_name: str) -> search_pb2.Candidate | None:
    return next((c for c in client.list_candidates(search_name) if tables.short(c.name) == BASELINE), None)
