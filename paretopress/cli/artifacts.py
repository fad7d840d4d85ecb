"""Files of candidates and searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from paretopress.cli import tables
from paretopress.cli.context import TransferBar, UsageError, print_json
from paretopress.client import Client


def fetch_all(client: Client, full_name: str, names: Sequence[str], out: Path, as_json: bool) -> None:
    """Download files into a folder, each checked against its sha256, and say where they lie."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [_fetch(client, full_name, name, out, as_json) for name in names]
    if as_json:
        return print_json({"files": [str(path) for path in paths]})
    for path in paths:
        Console(highlight=False, soft_wrap=True).print(f"{path}  {tables.size(path.stat().st_size)}")
    return None


def _fetch(client: Client, full_name: str, file_name: str, out: Path, silent: bool) -> Path:
    if Path(file_name).name != file_name:
        raise UsageError(f"{file_name!r} is not a plain file name")
    with TransferBar(f"downloading {file_name}", silent) as bar:
        return client.download_artifact(full_name, file_name, out / file_name, bar)
