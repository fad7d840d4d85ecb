"""ScheduleService."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.empty_pb2 import Empty

from paretopress.v1 import schedule_pb2, schedule_pb2_grpc
from service.converters.inputs import parse_parent
from service.converters.schedules import changed, run_to_proto, schedule_from_proto, schedule_to_proto
from service.converters.searches import Lookups
from service.resources import ProjectName, ScheduleName
from service.store.pages import PageRequest
from service.store.requests import fingerprint
from service.store.schedule_runs import ScheduleRuns
from service.store.schedule_store import ScheduleStore, StoredSchedule


@dataclass(frozen=True)
class ScheduleStores:
    """What the servicer reads and writes; ``lookups`` and ``registry_allowed`` are for a project."""

    schedules: ScheduleStore
    runs: ScheduleRuns
    lookups: Callable[[str], Lookups]
    registry_allowed: Callable[[str], bool]


class ScheduleServicer(schedule_pb2_grpc.ScheduleServiceServicer):
    """Thin: schedules are parsed here and stored; `service.schedules.scheduler` starts what is due."""

    def __init__(self, stores: ScheduleStores) -> None:
        self._stores = stores
        self._schedules = stores.schedules

    async def CreateSchedule(self, request: schedule_pb2.CreateScheduleRequest, context: Any) -> schedule_pb2.Schedule:
        """Check and store."""
        return schedule_to_proto(await asyncio.to_thread(self._create, request))

    def _create(self, request: schedule_pb2.CreateScheduleRequest) -> StoredSchedule:
        digest = fingerprint(request)
        known = self._schedules.recall(parse_parent(request.parent, []).project, request.request_id, digest)
        if known is not None:
            return known
        new = schedule_from_proto(request, self._stores.lookups, self._stores.registry_allowed, time.time())
        return StoredSchedule(**vars(new)) if request.validate_only else self._schedules.create(new, request.request_id, digest)

    async def GetSchedule(self, request: schedule_pb2.GetScheduleRequest, context: Any) -> schedule_pb2.Schedule:
        """One by name."""
        name = ScheduleName.from_name(request.name).name
        return schedule_to_proto(await asyncio.to_thread(self._schedules.get, name))

    async def ListSchedules(self, request: schedule_pb2.ListSchedulesRequest, context: Any) -> schedule_pb2.ListSchedulesResponse:
        """A page, newest first."""
        parent = ProjectName.from_name(request.parent, "parent")
        asked = PageRequest.parse(request.page_size, request.page_token, f"schedules of {parent.name}")
        page = await asyncio.to_thread(self._schedules.list, parent.project, asked)
        schedules = map(schedule_to_proto, page.items)
        return schedule_pb2.ListSchedulesResponse(schedules=schedules, next_page_token=page.next_page_token)

    async def UpdateSchedule(self, request: schedule_pb2.UpdateScheduleRequest, context: Any) -> schedule_pb2.Schedule:
        """Change some fields."""
        return schedule_to_proto(await asyncio.to_thread(self._update, request))

    def _update(self, request: schedule_pb2.UpdateScheduleRequest) -> StoredSchedule:
        name = ScheduleName.from_name(request.schedule.name, "schedule.name")
        stored = self._schedules.get(name.name)
        spec = changed(stored, request, self._stores.lookups(name.project), self._stores.registry_allowed(name.project))
        return self._schedules.update(name.name, spec, request.schedule.etag or stored.etag, time.time())

    async def DeleteSchedule(self, request: schedule_pb2.DeleteScheduleRequest, context: Any) -> Empty:
        """Forget one."""
        await asyncio.to_thread(self._schedules.delete, ScheduleName.from_name(request.name).name, request.etag)
        return Empty()

    async def PauseSchedule(self, request: schedule_pb2.PauseScheduleRequest, context: Any) -> schedule_pb2.Schedule:
        """Let one rest."""
        name = ScheduleName.from_name(request.name).name
        return schedule_to_proto(await asyncio.to_thread(self._schedules.pause, name, request.etag))

    async def ResumeSchedule(self, request: schedule_pb2.ResumeScheduleRequest, context: Any) -> schedule_pb2.Schedule:
        """Go on with one."""
        name = ScheduleName.from_name(request.name).name
        return schedule_to_proto(await asyncio.to_thread(self._schedules.resume, name, time.time(), request.etag))

    async def RunSchedule(self, request: schedule_pb2.RunScheduleRequest, context: Any) -> schedule_pb2.ScheduleRun:
        """Run one now."""
        name = ScheduleName.from_name(request.name).name
        return run_to_proto(await asyncio.to_thread(self._stores.runs.run_now, name, request.request_id, fingerprint(request)))

    async def ListScheduleRuns(
        self, request: schedule_pb2.ListScheduleRunsRequest, context: Any
    ) -> schedule_pb2.ListScheduleRunsResponse:
        """A page, newest first."""
        parent = ScheduleName.from_name(request.parent, "parent").name
        asked = PageRequest.parse(request.page_size, request.page_token, f"runs of {parent}")
        page = await asyncio.to_thread(self._schedules.runs, parent, asked)
        return schedule_pb2.ListScheduleRunsResponse(runs=map(run_to_proto, page.items), next_page_token=page.next_page_token)
