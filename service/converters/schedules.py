"""Schedules to `ScheduleSpec`, with every bad field at once; stored schedules and runs back to protos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from paretopress.v1 import schedule_pb2, search_pb2
from search.errors import FieldViolation
from service.converters.enums import EnumPairs, seconds_of, timestamp
from service.converters.inputs import check_text, choose_id, parse_parent
from service.converters.searches import Lookups, asked_to_proto, duration, resolve, spec_from_proto
from service.errors import InvalidRequestError
from service.resources import DatasetName, ModelName, ScheduleName
from service.schedules.spec import (
    DEFAULT_GRACE_S,
    REFERENCE_PREFIX,
    REFERENCE_SHAPE,
    MisfirePolicy,
    OverlapPolicy,
    RegistryEntry,
    RegistryReference,
    ScheduleSpec,
    SearchTemplate,
    Timing,
)
from service.store.input_store import StoredInput
from service.store.schedule_store import NewSchedule, StoredRun, StoredSchedule

_S = schedule_pb2.Schedule
MISFIRES: EnumPairs[MisfirePolicy] = EnumPairs(
    {_S.RUN_ONCE: "run_once", _S.SKIP_MISSED: "skip_missed", _S.RUN_ALL: "run_all"}, "run_once"
)
OVERLAPS: EnumPairs[OverlapPolicy] = EnumPairs({_S.SKIP: "skip", _S.QUEUE: "queue", _S.CANCEL_PREVIOUS: "cancel_previous"}, "skip")
CHANGEABLE = (
    "display_name",
    "cron",
    "time_zone",
    "start_time",
    "end_time",
    "misfire_policy",
    "misfire_grace",
    "overlap_policy",
    "template",
    "rerun_unchanged",
    "register_as",
)
_FIRST_TIME, _LAST_TIME = 0.0, 253_402_300_799.0
"""1970 to 9999: what every calendar can say."""


def schedule_from_proto(
    request: schedule_pb2.CreateScheduleRequest,
    lookups_of: Callable[[str], Lookups],
    registry_allowed: Callable[[str], bool],
    now: float,
) -> NewSchedule:
    """Read a request.

    Args:
        lookups_of, registry_allowed: for a project: how its names are resolved, and whether it may use the model registry.

    Raises:
        InvalidRequestError: with every bad field.
    """
    found: list[FieldViolation] = []
    project = parse_parent(request.parent, found).project
    schedule_id = choose_id(request.schedule_id, "t", "schedule_id", found)
    spec = spec_of(request.schedule, lookups_of(project), registry_allowed(project), found)
    next_run_time = None if found else spec.timing.next_after(now)
    if not found and next_run_time is None:
        found.append(FieldViolation("schedule.end_time", "nothing is due before it"))
    if found:
        raise InvalidRequestError(found)
    return NewSchedule(ScheduleName(project, schedule_id).name, project, spec, next_run_time)


def spec_of(proto: schedule_pb2.Schedule, lookups: Lookups, registry_allowed: bool, found: list[FieldViolation]) -> ScheduleSpec:
    """What a user says about a schedule; every bad field is noted."""
    check_text(proto.display_name, "schedule.display_name", found)
    check_text(proto.cron, "schedule.cron", found)
    timing = Timing(
        cron=proto.cron,
        time_zone=proto.time_zone or "UTC",
        start_time=_time(proto.start_time, "schedule.start_time", found) if proto.HasField("start_time") else None,
        end_time=_time(proto.end_time, "schedule.end_time", found) if proto.HasField("end_time") else None,
        misfire_policy=MISFIRES.word(proto.misfire_policy, "schedule.misfire_policy", found),
        misfire_grace_s=seconds_of(proto.misfire_grace) if proto.HasField("misfire_grace") else DEFAULT_GRACE_S,
    )
    found += _below("schedule", timing.violations())
    entry = RegistryEntry(proto.register_as.model_name, proto.register_as.alias) if proto.HasField("register_as") else None
    found += _below("schedule.register_as", entry.violations() if entry else [])
    if (entry or proto.template.model.startswith(REFERENCE_PREFIX)) and not registry_allowed:
        field = "schedule.register_as" if entry else "schedule.template.model"
        words = "this project may not use the model registry; PARETOPRESS_REGISTRY_PROJECTS on the server says which may"
        found.append(FieldViolation(field, words))
    return ScheduleSpec(
        display_name=proto.display_name,
        timing=timing,
        template=_template(proto.template, lookups, found),
        overlap_policy=OVERLAPS.word(proto.overlap_policy, "schedule.overlap_policy", found),
        rerun_unchanged=proto.rerun_unchanged,
        register_as=entry,
    )


def changed(
    stored: StoredSchedule, request: schedule_pb2.UpdateScheduleRequest, lookups: Lookups, registry_allowed: bool
) -> ScheduleSpec:
    """The schedule with the fields of the mask changed.

    Raises:
        InvalidRequestError: with every bad field, of the mask too.
    """
    found = _mask_violations(request.update_mask)
    if found:
        raise InvalidRequestError(found)
    proto: Any = schedule_to_proto(stored)
    given: Any = request.schedule
    for path in CHANGEABLE if "*" in request.update_mask.paths else request.update_mask.paths:
        proto.ClearField(path)
        value = getattr(given, path)
        if not isinstance(value, Message):
            setattr(proto, path, value)
        elif given.HasField(path):
            getattr(proto, path).CopyFrom(value)
    spec = spec_of(proto, lookups, registry_allowed, found)
    if found:
        raise InvalidRequestError(found)
    return spec


def schedule_to_proto(stored: StoredSchedule) -> schedule_pb2.Schedule:
    """A stored schedule."""
    spec, timing, template = stored.spec, stored.spec.timing, stored.spec.template
    result = schedule_pb2.Schedule(
        name=stored.name,
        display_name=spec.display_name,
        cron=timing.cron,
        time_zone=timing.time_zone,
        start_time=timestamp(timing.start_time),
        end_time=timestamp(timing.end_time),
        misfire_policy=MISFIRES.number(timing.misfire_policy),
        misfire_grace=duration(timing.misfire_grace_s),
        overlap_policy=OVERLAPS.number(spec.overlap_policy),
        template=asked_to_proto(stored.project, template.model, template.dataset, template.display_name, template.spec),
        rerun_unchanged=spec.rerun_unchanged,
        paused=stored.paused,
        next_run_time=timestamp(stored.next_run_time),
        last_run=run_to_proto(stored.last_run) if stored.last_run else None,
        create_time=timestamp(stored.create_time) if stored.create_time else None,
        etag=stored.etag if stored.schedule_id else "",
    )
    if spec.register_as is not None:
        result.register_as.model_name, result.register_as.alias = spec.register_as.model_name, spec.register_as.alias
    return result


def run_to_proto(run: StoredRun) -> schedule_pb2.ScheduleRun:
    """What became of a due time."""
    return schedule_pb2.ScheduleRun(
        name=run.name,
        due_time=timestamp(run.due_time),
        manual=run.manual,
        state=schedule_pb2.ScheduleRun.State.Value(run.state),
        message=run.message,
        search=run.search,
        source_version=run.source_version,
        registered_version=run.registered_version,
        registration_message=run.registration_message,
        create_time=timestamp(run.create_time),
    )


def _template(proto: search_pb2.Search, lookups: Lookups, found: list[FieldViolation]) -> SearchTemplate:
    dataset = resolve(proto.dataset, DatasetName, "schedule.template.dataset", lookups.find_dataset, found)
    model: StoredInput | None = None
    if not proto.model.startswith(REFERENCE_PREFIX):
        model = resolve(proto.model, ModelName, "schedule.template.model", lookups.find_model, found)
    elif RegistryReference.parse(proto.model) is None:
        found.append(FieldViolation("schedule.template.model", f"must look like {REFERENCE_SHAPE}, got {proto.model[:300]!r}"))
    spec = spec_from_proto(proto, "schedule.template", lookups, model, dataset, found)
    return SearchTemplate(proto.model, proto.dataset, proto.display_name, spec)


def _mask_violations(mask: FieldMask) -> list[FieldViolation]:
    if not mask.paths:
        return [FieldViolation("update_mask", f"must name at least one of {list(CHANGEABLE)}, or *")]
    unknown = [path[:100] for path in mask.paths if path not in (*CHANGEABLE, "*")]
    return [FieldViolation("update_mask", f"{path!r} cannot be changed; these can: {list(CHANGEABLE)}") for path in unknown[:10]]


def _time(value: Timestamp, field: str, found: list[FieldViolation]) -> float:
    seconds = seconds_of(value)
    if not _FIRST_TIME <= seconds <= _LAST_TIME:
        found.append(FieldViolation(field, "must be a time between 1970 and 9999"))
        return _FIRST_TIME
    return seconds


def _below(prefix: str, violations: list[FieldViolation]) -> list[FieldViolation]:
    return [FieldViolation(f"{prefix}.{violation.field}", violation.description) for violation in violations]
