"""A model that the fake importer knows the operators of, so that the real server can price it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hw_models.graph import Operator, OperatorGraph
from service.store.blobs import FsspecBlobStore
from tests.service.fakes import FakeImporter, model_facts


def graph() -> OperatorGraph:
    """Two convolutions, the second with an odd number of channels and a name as long as those of real networks."""
    first = _convolution("features.0", "input", 1, 16)
    second = _convolution("features.stage4.unit12.branch2.pointwise.convolution", "features.0", 16, 33)
    return OperatorGraph((first, second), (1, 1, 28, 28))


def _convolution(name: str, source: str, channels: int, filters: int) -> Operator:
    shapes = (((1, channels, 28, 28),), (1, filters, 28, 28), (filters, channels, 3, 3))
    return Operator(name, "conv", (source,), *shapes, attributes={"kernel": [3, 3], "stride": [1, 1], "groups": 1})


class GraphImporter(FakeImporter):
    """Every model has these operators.

    Args:
        network: a canonical network file to be stored with it, for recipes.
    """

    def __init__(self, data_dir: Path, network: Path | None = None) -> None:
        super().__init__()
        self._blobs = data_dir / "blobs"
        self._network = network

    def model(self, path: Path, request: object) -> dict[str, Any]:
        blobs = FsspecBlobStore(str(self._blobs))
        facts = {**model_facts(), "graph_sha256": blobs.put_bytes(graph().to_json().encode())}
        if self._network is not None:
            facts["canonical_sha256"] = blobs.put_file(self._network)
        return facts
