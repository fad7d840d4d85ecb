"""TargetService."""

from __future__ import annotations

import asyncio
from typing import Any

from hw_models.graph import OperatorGraph
from hw_models.predictor import Predictor
from paretopress.v1 import target_pb2, target_pb2_grpc
from search.errors import FieldViolation
from search.protocols import BlobStore
from search.spec import MAX_BATCH_SIZE
from service.converters.targets import prediction_to_proto, target_to_proto
from service.errors import InvalidRequestError
from service.intake.sandbox import run_in_sandbox
from service.predictors import PredictorFiles
from service.resources import ModelName, ProjectName, TargetName
from service.store.input_store import InputStore, StoredInput
from service.store.pages import PageRequest


class TargetServicer(target_pb2_grpc.TargetServiceServicer):
    """Predictions of a stored model read its operator graph; a recipe is applied in a sandbox child."""

    def __init__(self, predictors: PredictorFiles, models: InputStore, blobs: BlobStore) -> None:
        self._predictors = predictors
        self._models = models
        self._blobs = blobs

    async def GetTarget(self, request: target_pb2.GetTargetRequest, context: Any) -> target_pb2.Target:
        """One by name."""
        name = TargetName.from_name(request.name)
        target = self._predictors.target(name.target)
        return target_to_proto(name.project, target, self._predictors.exists(target.name))

    async def ListTargets(self, request: target_pb2.ListTargetsRequest, context: Any) -> target_pb2.ListTargetsResponse:
        """A page, by name."""
        parent = ProjectName.from_name(request.parent, "parent")
        asked = PageRequest.parse(request.page_size, request.page_token, f"targets of {parent.name}")
        names = sorted(name for name in self._predictors.targets() if asked.after is None or name > str(asked.after))
        page = asked.page(names[: asked.size + 1], lambda name: name)
        targets = [target_to_proto(parent.project, self._predictors.target(n), self._predictors.exists(n)) for n in page.items]
        return target_pb2.ListTargetsResponse(targets=targets, next_page_token=page.next_page_token)

    async def PredictLatency(self, request: target_pb2.PredictLatencyRequest, context: Any) -> target_pb2.PredictLatencyResponse:
        """Latency of a model, or of a recipe applied to it."""
        target = TargetName.from_name(request.target, "target").target
        model = ModelName.from_name(request.model, "model").name
        batch_size = request.batch_size or 1
        if not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise InvalidRequestError.of("batch_size", f"must be between 1 and {MAX_BATCH_SIZE}, got {batch_size}")
        self._predictors.target(target)
        stored = await asyncio.to_thread(self._models.get, model)
        return await asyncio.to_thread(self._predict, target, stored, batch_size, request.recipe_json)

    def _predict(self, target: str, model: StoredInput, batch_size: int, recipe_json: str) -> target_pb2.PredictLatencyResponse:
        predictor_json = self._predictors.read(target)
        if recipe_json or batch_size != 1:
            graph_json = self._describe(model, recipe_json, batch_size, predictor_json)
        else:
            graph_json = self._blobs.get_bytes(model.facts["graph_sha256"]).decode()
        graph = OperatorGraph.from_json(graph_json)
        return prediction_to_proto(Predictor.from_json(predictor_json).predict(graph), graph.macs())

    def _describe(self, model: StoredInput, recipe_json: str, batch_size: int, predictor_json: str) -> str:
        arguments = {
            "network_path": str(self._blobs.local_path(model.facts["canonical_sha256"])),
            "recipe_json": recipe_json,
            "batch_size": batch_size,
            "predictor_json": predictor_json,
        }
        answer = run_in_sandbox("service.child_functions:describe_with_recipe", arguments)
        if "refused" in answer:
            raise InvalidRequestError([FieldViolation("recipe_json", answer["refused"])])
        return str(answer["graph"])
