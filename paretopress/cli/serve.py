"""``paretopress serve``: the one command that needs more than the client."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from paretopress.cli.context import UsageError


def serve(
    port: Annotated[int | None, typer.Option(help="port to listen on; 0 = a free one")] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on; beyond loopback, TLS and tokens must be set")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="where everything is kept")] = None,
    dataset_root: Annotated[list[Path] | None, typer.Option(help="folder that datasets may be read from; repeat")] = None,
    mlflow_ui: Annotated[bool, typer.Option(help="show MLflow in a web page")] = True,
    mlflow_port: Annotated[int | None, typer.Option(help="port of that page")] = None,
) -> None:
    """Run the server with its worker; stop it with Ctrl-C. Other settings come from PARETOPRESS_* variables."""
    server, settings = _load_service()
    given = {"port": port, "host": host, "data_dir": data_dir, "dataset_roots": dataset_root, "mlflow_port": mlflow_port}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    from service.errors import ServiceError

    try:
        asyncio.run(server.serve(settings.Settings(**values, mlflow_ui=mlflow_ui)))
    except ServiceError as error:
        raise UsageError(str(error)) from error


def _load_service() -> tuple[Any, Any]:
    """The service runs from a checkout: beside this package, or wherever Python finds it."""
    root = Path(__file__).resolve().parents[2]
    if (root / "service" / "server.py").is_file() and str(root) not in sys.path:
        sys.path.insert(0, str(root))
    if importlib.util.find_spec("service") is None:
        raise UsageError(
            "this installation is the client only; serve from a checkout with `pip install -e .[server]`, or the image"
        )
    try:
        from service import server, settings
    except ImportError as error:
        raise UsageError(f"the server's libraries are missing ({error}); `pip install -e .[server]` brings them") from error
    return server, settings
