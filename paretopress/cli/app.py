"""The ``paretopress`` command: global options, sub-commands, and how errors are shown."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.console import Console

from paretopress.cli import candidates, datasets, models, schedules, searches, targets, tokens
from paretopress.cli.context import CliState, JsonOption, wants_json
from paretopress.cli.search import search
from paretopress.cli.serve import serve
from paretopress.cli.techniques import techniques
from paretopress.client import DEFAULT_ADDRESS, DEFAULT_PROJECT
from paretopress.credentials import Credentials
from paretopress.errors import ClientError, RequestRefusedError

EXIT_REFUSED = 2

app = typer.Typer(
    name="paretopress",
    help="Compress a CNN to a hardware budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="models")
app.add_typer(datasets.app, name="datasets")
app.add_typer(targets.app, name="targets")
app.add_typer(searches.app, name="searches")
app.add_typer(schedules.app, name="schedules")
app.add_typer(candidates.app, name="candidates")
app.add_typer(tokens.app, name="tokens")
app.command()(search)
app.command()(techniques)
app.command()(serve)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"paretopress {metadata.version('paretopress')}")
        raise typer.Exit


def _with_json(command: Any) -> dict[str, Any]:
    """Defaults that ask every command below for JSON."""
    return {"as_json": True, **{name: _with_json(sub) for name, sub in getattr(command, "commands", {}).items()}}


@app.callback()
def connect(
    context: typer.Context,
    address: Annotated[str, typer.Option(envvar="PARETOPRESS_ADDRESS", help="host:port of the server")] = DEFAULT_ADDRESS,
    project: Annotated[str, typer.Option(envvar="PARETOPRESS_PROJECT", help="projects/{project}")] = DEFAULT_PROJECT,
    token: Annotated[
        str, typer.Option(envvar="PARETOPRESS_TOKEN", help="API token; better in the variable, which `ps` does not show")
    ] = "",
    ca_certificate: Annotated[
        str, typer.Option(envvar="PARETOPRESS_CA_CERTIFICATE", help="PEM file of the server's authority, or system; turns TLS on")
    ] = "",
    client_certificate: Annotated[
        str, typer.Option(envvar="PARETOPRESS_CLIENT_CERTIFICATE", help="PEM file, for servers that ask for one")
    ] = "",
    client_key: Annotated[str, typer.Option(envvar="PARETOPRESS_CLIENT_KEY", help="PEM file of its key")] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", envvar="PARETOPRESS_INSECURE", help="send a token without TLS to another machine")
    ] = False,
    as_json: JsonOption = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compress a CNN to a hardware budget."""
    if as_json:
        context.default_map = _with_json(context.command)
    context.obj = CliState(address, project, Credentials(token, ca_certificate, client_certificate, client_key, insecure))


def run() -> None:
    """Run the command and show what was refused; exit code 2 means that nothing was done."""
    try:
        app()
    except ClientError as error:
        show_error(error, as_json=wants_json(sys.argv[1:]))
        sys.exit(EXIT_REFUSED)


def show_error(error: ClientError, as_json: bool = False) -> None:
    """Every bad field, and a hint; on standard error."""
    if as_json:
        print(json.dumps(error_to_json(error), indent=2), file=sys.stderr)
        return
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    problems = error.problems if isinstance(error, RequestRefusedError) else ()
    listed = [f"{p.field}: {p.description}" for p in problems]
    # A message that only strings the problems together says nothing that does not stand below.
    repeats = bool(problems) and all(p.description[:80] in str(error) for p in problems[:3])
    headline = f"{len(listed)} field(s) are wrong" if repeats else str(error)
    console.print(f"[bold red]error:[/] {_plain(headline)}")
    for problem in problems:
        console.print(f"  [bold]{_plain(problem.field)}[/]: {_plain(problem.description)}")
    if isinstance(error, RequestRefusedError):
        if error.hint:
            console.print(f"[yellow]hint:[/] {error.hint}")
        if error.request_id:
            console.print(f"[dim]request id {error.request_id}[/]")


def error_to_json(error: ClientError) -> dict[str, object]:
    """The same for programs."""
    if not isinstance(error, RequestRefusedError):
        return {"error": {"message": str(error)}}
    problems = [{"field": p.field, "description": p.description} for p in error.problems]
    return {
        "error": {
            "code": error.code.name,
            "reason": error.reason,
            "message": error.message,
            "field_violations": problems,
            "metadata": error.metadata,
            "request_id": error.request_id,
        }
    }


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
