"""Paretopress: takes a CNN and a hardware budget, returns the smallest, fastest network that still meets it.

Nothing is imported here before it is used, so that ``paretopress.runtime`` works where gRPC is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paretopress.client import Client as Client

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Client":
        from paretopress.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
