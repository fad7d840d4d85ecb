"""The model registry's contract: where original networks come from and results go to, whichever system keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from search.errors import SearchError


class RegistryRefusedError(SearchError):
    """The registry has no such model, alias or version, or one that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class OnnxModel:
    """A downloaded model of the onnx flavour: ``path`` may refer to further files in its folder."""

    folder: Path
    path: Path


class ModelRegistry(Protocol):
    """Called by workers only; every call may be repeated.

    Implementations raise `RegistryRefusedError` for what will not change by itself, and another `SearchError` where the registry
    cannot be reached.
    """

    def version_of(self, model_name: str, alias: str) -> str:
        """The version that an alias points at now."""
        ...

    def download(self, model_name: str, version: str, folder: Path, max_bytes: int) -> OnnxModel:
        """Fetch a version of at most ``max_bytes`` into an empty folder. Nothing of it is loaded."""
        ...

    def register(self, model_name: str, alias: str, search_name: str, onnx_path: Path) -> str:
        """Register a search's result, once however often it is asked for, and let the alias point at it; returns the version."""
        ...
