"""TargetService."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.empty_pb2 import Empty

from paretopress.v1 import target_pb2, target_pb2_grpc
from search.errors import FieldViolation
from service.converters import targets as convert
from service.converters.inputs import parse_parent
from service.converters.registration import target_from_proto
from service.errors import InvalidRequestError, PreconditionError
from service.resources import CalibrationName, ProjectName, TargetName, new_id
from service.store.calibration_catalogue import CalibrationCatalogue, NewCalibration, StoredCalibration
from service.store.input_store import InputStore
from service.store.pages import PageRequest
from service.store.requests import fingerprint
from service.targets.directory import KnownTarget, TargetDirectory
from service.targets.latency_prices import LatencyPricing, Priced


@dataclass(frozen=True)
class TargetStores:
    """What the servicer reads and writes."""

    targets: TargetDirectory
    calibrations: CalibrationCatalogue
    models: InputStore
    pricing: LatencyPricing


class TargetServicer(target_pb2_grpc.TargetServiceServicer):
    """Thin: requests are parsed here; a worker calibrates."""

    def __init__(self, stores: TargetStores) -> None:
        self._stores = stores
        self._targets = stores.targets
        self._calibrations = stores.calibrations

    async def GetTarget(self, request: target_pb2.GetTargetRequest, context: Any) -> target_pb2.Target:
        """One by name."""
        name = TargetName.from_name(request.name)
        return convert.target_to_proto(name.project, await asyncio.to_thread(self._targets.get, name))

    async def ListTargets(self, request: target_pb2.ListTargetsRequest, context: Any) -> target_pb2.ListTargetsResponse:
        """A page, by name."""
        parent = ProjectName.from_name(request.parent, "parent")
        asked = PageRequest.parse(request.page_size, request.page_token, f"targets of {parent.name}")
        known = await asyncio.to_thread(self._targets.all, parent.project)
        names = [name for name in known if asked.after is None or name > str(asked.after)]
        page = asked.page(names[: asked.size + 1], lambda name: name)
        targets = [convert.target_to_proto(parent.project, known[name]) for name in page.items]
        return target_pb2.ListTargetsResponse(targets=targets, next_page_token=page.next_page_token)

    async def CreateTarget(self, request: target_pb2.CreateTargetRequest, context: Any) -> target_pb2.Target:
        """Check and register."""
        project = parse_parent(request.parent, []).project
        return convert.target_to_proto(project, await asyncio.to_thread(self._create, project, request))

    def _create(self, project: str, request: target_pb2.CreateTargetRequest) -> KnownTarget:
        digest = fingerprint(request)
        known = self._targets.recall(project, request.request_id, digest)
        if known is not None:
            return known
        new = target_from_proto(request)
        if request.validate_only:
            self._targets.check_new(new)
            return KnownTarget(new.target, "registered")
        return self._targets.register(new, request.request_id, digest)

    async def DeleteTarget(self, request: target_pb2.DeleteTargetRequest, context: Any) -> Empty:
        """Forget a registered one."""
        await asyncio.to_thread(self._targets.delete, TargetName.from_name(request.name), request.etag)
        return Empty()

    async def PredictLatency(self, request: target_pb2.PredictLatencyRequest, context: Any) -> target_pb2.PredictLatencyResponse:
        """Latency of a model, or of a recipe applied to it."""
        found: list[FieldViolation] = []
        target = TargetName.from_name(request.target, "target")
        priced = await self._priced(request, [target], found)
        return convert.prediction_to_proto(priced[0])

    async def CompareTargets(self, request: target_pb2.CompareTargetsRequest, context: Any) -> target_pb2.CompareTargetsResponse:
        """The same on several targets."""
        found: list[FieldViolation] = []
        targets = convert.compared_from_proto(list(request.targets), found)
        priced = await self._priced(request, targets, found)
        predictions = [convert.comparison_to_proto(name, one) for name, one in zip(targets, priced, strict=True)]
        return target_pb2.CompareTargetsResponse(predictions=predictions)

    async def _priced(
        self,
        request: target_pb2.PredictLatencyRequest | target_pb2.CompareTargetsRequest,
        targets: Sequence[TargetName],
        found: list[FieldViolation],
    ) -> list[Priced]:
        batch_size = convert.batch_size_from_proto(request.batch_size, found)
        model = convert.model_from_proto(request.model, found)
        if found:
            raise InvalidRequestError(found)

        def price() -> list[Priced]:
            predictors = [self._targets.predictor(self._targets.get(name)) for name in targets]
            return self._stores.pricing.price(self._stores.models.get(model), predictors, batch_size, request.recipe_json)

        return await asyncio.to_thread(price)

    async def CalibrateTarget(self, request: target_pb2.CalibrateTargetRequest, context: Any) -> target_pb2.Calibration:
        """Queue a calibration."""
        return convert.calibration_to_proto(await asyncio.to_thread(self._calibrate, request))

    def _calibrate(self, request: target_pb2.CalibrateTargetRequest) -> StoredCalibration:
        target = TargetName.from_name(request.name)
        budget_s = convert.budget_from_proto(request)
        if not self._targets.get(target).target.attached:
            known = self._targets.all(target.project).items()
            attached = [name for name, one in known if one.target.attached]
            words = f"{target.name} is known from its data sheet only and cannot be measured; attached are {attached}"
            raise PreconditionError(words)
        name = CalibrationName(target.project, target.target, new_id("c")).name
        new = NewCalibration(name, target.project, target.name, budget_s)
        return self._calibrations.create(new, request.request_id, fingerprint(request))

    async def GetCalibration(self, request: target_pb2.GetCalibrationRequest, context: Any) -> target_pb2.Calibration:
        """One by name."""
        name = CalibrationName.from_name(request.name).name
        return convert.calibration_to_proto(await asyncio.to_thread(self._calibrations.get, name))

    async def ListCalibrations(
        self, request: target_pb2.ListCalibrationsRequest, context: Any
    ) -> target_pb2.ListCalibrationsResponse:
        """A page of a target's, newest first."""
        parent = TargetName.from_name(request.parent, "parent")
        asked = PageRequest.parse(request.page_size, request.page_token, f"calibrations of {parent.name}")
        await asyncio.to_thread(self._targets.get, parent)
        page = await asyncio.to_thread(self._calibrations.list, parent.name, asked)
        calibrations = map(convert.calibration_to_proto, page.items)
        return target_pb2.ListCalibrationsResponse(calibrations=calibrations, next_page_token=page.next_page_token)

    async def CancelCalibration(self, request: target_pb2.CancelCalibrationRequest, context: Any) -> target_pb2.Calibration:
        """Ask for the end."""
        name = CalibrationName.from_name(request.name).name
        return convert.calibration_to_proto(await asyncio.to_thread(self._calibrations.cancel, name))
