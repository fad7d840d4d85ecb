"""``paretopress tokens``."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from paretopress.cli import tables
from paretopress.cli.context import JsonOption, print_json, print_messages, state_of, to_dict
from paretopress.v1 import access_pb2

app = typer.Typer(help="Who may call the server: API tokens (needs the admin scope).", no_args_is_help=True)
_DAY_S = 24 * 3600.0


class ScopeChoice(StrEnum):
    """What a token's bearer may do."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@app.command()
def create(
    context: typer.Context,
    scope: Annotated[ScopeChoice, typer.Option(help="each includes those before it")] = ScopeChoice.READ,
    days: Annotated[float, typer.Option(help="days until it ends")] = 90.0,
    name: Annotated[str, typer.Option(help="title for people")] = "",
    all_projects: Annotated[bool, typer.Option("--all-projects", help="good for every project")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a token. Its secret is shown once: standard output has nothing else."""
    number = access_pb2.Token.Scope.Value(scope.name)
    with state_of(context).client() as client:
        made = client.create_token(number, display_name=name, lifetime_s=days * _DAY_S, all_projects=all_projects)
    if as_json:
        return print_json(to_dict(made))
    words = f"{made.token.name} until {tables.when(made.token.expire_time)}; the secret is shown once:"
    Console(stderr=True, soft_wrap=True, highlight=False).print(words)
    print(made.secret)
    return None


@app.command("list")
def list_tokens(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the project's tokens, newest first."""
    with state_of(context).client() as client:
        tokens = list(client.list_tokens())
    if as_json:
        return print_messages(tokens)
    table = tables.narrow_table(
        "tokens", {"token": "left", "scope": "left", "state": "left", "last used": "left", "title": "left"}, folds="title"
    )
    for token in tokens:
        table.add_row(*_row(token))
    tables.table_console().print(table)
    return None


@app.command()
def revoke(context: typer.Context, name: str, as_json: JsonOption = False) -> None:
    """End a token; within seconds nobody is let in with it."""
    state = state_of(context)
    with state.client() as client:
        revoked = client.revoke_token(state.full_name("tokens", name))
    if as_json:
        return print_json(to_dict(revoked))
    print(f"{revoked.name} was revoked")
    return None


def _row(token: access_pb2.Token) -> list[str]:
    scope = tables.enum_word(access_pb2.Token.Scope, token.scope).lower() + (" of all" if token.all_projects else "")
    used = tables.when(token.last_use_time) if token.HasField("last_use_time") else "never"
    return [tables.short(token.name), scope, _state(token), used, token.display_name]


def _state(token: access_pb2.Token) -> str:
    if token.HasField("revoke_time"):
        return "revoked"
    expired = token.expire_time.ToDatetime(UTC) < datetime.now(UTC)
    return "expired" if expired else f"until {tables.when(token.expire_time)}"
