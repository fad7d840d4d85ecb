"""TechniqueService."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from paretopress.v1 import technique_pb2, technique_pb2_grpc
from service.techniques import KnownTechnique


class TechniqueServicer(technique_pb2_grpc.TechniqueServiceServicer):
    """What is installed; ``techniques`` may take a second the first time."""

    def __init__(self, techniques: Callable[[], Sequence[KnownTechnique]]) -> None:
        self._techniques = techniques

    async def ListTechniques(
        self, request: technique_pb2.ListTechniquesRequest, context: Any
    ) -> technique_pb2.ListTechniquesResponse:
        """All of them."""
        known = await asyncio.to_thread(self._techniques)
        return technique_pb2.ListTechniquesResponse(techniques=[technique_to_proto(one) for one in known])


def technique_to_proto(known: KnownTechnique) -> technique_pb2.Technique:
    """As clients see it."""
    settings = [
        technique_pb2.TechniqueSetting(name=s.name, low=s.low, high=s.high, choices=s.choices, default_value=s.default)
        for s in known.settings
    ]
    return technique_pb2.Technique(
        name=known.name,
        version=known.version,
        axis=technique_pb2.Axis.Value(known.axis.upper() or "AXIS_UNSPECIFIED"),
        stage=known.stage,
        cites=known.cites,
        reduces=known.reduces,
        not_supported_on=known.not_supported_on,
        settings=settings,
    )
