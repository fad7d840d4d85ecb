"""``paretopress techniques``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import typer
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from paretopress.cli import tables
from paretopress.cli.context import JsonOption, print_messages, state_of
from paretopress.v1 import technique_pb2


def techniques(context: typer.Context, as_json: JsonOption = False) -> None:
    """List what can be done to a network, in the order in which it is applied."""
    with state_of(context).client() as client:
        found = client.list_techniques()
    if as_json:
        return print_messages(found)
    tables.table_console().print(TechniqueTable(found))
    return None


@dataclass(frozen=True)
class TechniqueTable:
    """Name, axis, what it reduces and the paper; what it is not supported on stands below."""

    techniques: Sequence[technique_pb2.Technique]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich prints."""
        columns = dict.fromkeys(("technique", "saves on", "reduces", "paper"), "left")
        table = tables.narrow_table("techniques", columns, folds="paper")  # type: ignore[arg-type]
        for one in self.techniques:
            axis = technique_pb2.Axis.Name(one.axis).lower() if one.axis else f"({one.stage})"
            table.add_row(one.name, axis, ", ".join(one.reduces) or "-", one.cites)
        yield table
        for one in self.techniques:
            if one.not_supported_on:
                yield Text(f"{one.name} is not supported on {one.not_supported_on}")
