"""What every command shares: the connection, names given short or in full, and ``--json``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from paretopress.client import Client
from paretopress.credentials import Credentials
from paretopress.errors import ClientError, RequestRefusedError

_ID = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@dataclass(frozen=True)
class CliState:
    """The global options."""

    address: str
    project: str
    credentials: Credentials = field(default_factory=Credentials)

    def client(self) -> Client:
        """A connection; use it in a ``with`` block."""
        return Client(self.address, self.project, on_retry=self._say_that_it_waits, **vars(self.credentials))

    def _say_that_it_waits(self, refused: RequestRefusedError, left_s: float) -> None:
        words = f"{self.address} does not answer ({refused.code.name.lower()}); trying for another {left_s:.0f} s"
        Console(stderr=True, highlight=False, soft_wrap=True).print(words, markup=False)

    def full_name(self, collection: str, text: str) -> str:
        """``m-12ab`` becomes ``projects/default/models/m-12ab``; a full name stays.

        Raises:
            UsageError: it can be neither; a mistyped path, most likely.
        """
        if text.startswith("projects/"):
            return text
        if re.fullmatch(rf"{_ID}(/[a-z0-9-]+)*", text) is None:
            noun = collection.rstrip("s")
            raise UsageError(f"{text!r} is no name of a {noun} (a-z, 0-9 and hyphens), and there is no such file here")
        return f"{self.project}/{collection}/{text}"


class UsageError(ClientError):
    """The command line asks for what cannot be."""


def refuse_given(context: typer.Context, parameters: Iterable[str], why: str) -> None:
    """Say so where options were given that would do nothing.

    Raises:
        UsageError: names them.
    """
    sources = {name: context.get_parameter_source(name) for name in parameters}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        raise UsageError(f"{', '.join('--' + name.replace('_', '-') for name in given)} {why}")


def state_of(context: typer.Context) -> CliState:
    """The global options of a command."""
    state: CliState = context.obj
    return state


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors should be JSON too."""
    return "--json" in arguments


def to_dict(message: Any) -> dict[str, Any]:
    """A proto as a JSON object with the contract's own field names."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def print_json(data: Any) -> None:
    """JSON on standard output."""
    Console(soft_wrap=True, highlight=False).print_json(data=data)


def print_messages(messages: Iterable[Any]) -> None:
    """A JSON list of protos."""
    print_json([to_dict(message) for message in messages])


class TransferBar:
    """A progress bar for an upload or a download; silent where JSON is wanted."""

    def __init__(self, title: str, silent: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), disable=silent, transient=True)
        self._task = self._progress.add_task(title, total=None)

    def __enter__(self) -> TransferBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""
        self._progress.update(self._task, completed=done, total=total)
        if done >= total:
            self._progress.update(self._task, description="the server reads it")
