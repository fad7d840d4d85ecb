"""Search requests to `SearchSpec`, with every bad field at once; stored searches and events back to protos."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from hw_models.targets import Target
from paretopress.v1 import search_pb2
from search.errors import FieldViolation
from search.plan import FINALS, LAST_RUNG, SEARCH, SearchPlan
from search.sized import size_violations
from search.spec import MAX_SCOPES, Budget, Effort, SearchSpec
from service.converters import enums
from service.converters.inputs import check_text, choose_id, parse_parent
from service.errors import InvalidRequestError
from service.matching import mismatches
from service.resources import DatasetName, ModelName, SearchName, TargetName
from service.store.input_store import StoredInput
from service.store.search_catalogue import StoredEvent, StoredSearch

NOBODY = "0" * 64
_DEFAULT_EFFORT = Effort()
_PROTO_FIELDS = {
    "budget.size_name": "budget.size_kind",
    "effort.max_wall_time_s": "effort.max_wall_time",
}


@dataclass(frozen=True)
class Lookups:
    """How the converter finds what a request names; ``techniques`` is called only if the request names some.

    Attributes:
        targets: those that the project sees, by the last part of their names.
    """

    find_model: Callable[[str], StoredInput | None]
    find_dataset: Callable[[str], StoredInput | None]
    targets: Mapping[str, Target]
    techniques: Callable[[], Collection[str]]


@dataclass(frozen=True)
class ParsedSearch:
    """A valid request with what it names."""

    name: str
    project: str
    display_name: str
    model: StoredInput
    dataset: StoredInput
    spec: SearchSpec


def search_from_proto(request: search_pb2.CreateSearchRequest, lookups: Lookups) -> ParsedSearch:
    """Read a request.

    Raises:
        InvalidRequestError: with every bad field: shapes of names, unknown resources, impossible and contradictory limits.
    """
    found: list[FieldViolation] = []
    proto = request.search
    project = parse_parent(request.parent, found).project
    search_id = choose_id(request.search_id, "s", "search_id", found)
    model = resolve(proto.model, ModelName, "search.model", lookups.find_model, found)
    dataset = resolve(proto.dataset, DatasetName, "search.dataset", lookups.find_dataset, found)
    spec = spec_from_proto(proto, "search", lookups, model, dataset, found)
    if found or model is None or dataset is None:
        raise InvalidRequestError(found)
    return ParsedSearch(SearchName(project, search_id).name, project, proto.display_name, model, dataset, spec)


def spec_from_proto(
    proto: search_pb2.Search,
    prefix: str,
    lookups: Lookups,
    model: StoredInput | None,
    dataset: StoredInput | None,
    found: list[FieldViolation],
) -> SearchSpec:
    """What is asked for; every bad field is noted below ``prefix``. None stands for a model or dataset that is not known (yet)."""
    spec = SearchSpec(
        model_sha256=model.model.canonical_sha256 if model else NOBODY,
        dataset_sha256=dataset.dataset.canonical_sha256 if dataset else NOBODY,
        target=_target(proto.target, f"{prefix}.target", lookups, found),
        budget=budget_from_proto(proto.budget, f"{prefix}.budget", found),
        effort=effort_from_proto(proto.effort),
        metric=proto.metric_name or enums.METRICS.word(proto.metric, f"{prefix}.metric", found),
        preference=enums.PREFERENCES.word(proto.preference, f"{prefix}.preference", found),
        expected_accuracy=proto.expected_accuracy if proto.HasField("expected_accuracy") else None,
        scopes=tuple(proto.scopes) or ("*",),
        techniques=tuple(proto.techniques),
    )
    found += [_prefixed(violation, prefix) for violation in spec.violations()]
    check_text(proto.display_name, f"{prefix}.display_name", found)
    if len(proto.scopes) > MAX_SCOPES:
        found.append(FieldViolation(f"{prefix}.scopes", f"must be at most {MAX_SCOPES} patterns, got {len(proto.scopes):,}"))
    for index, scope in enumerate(proto.scopes[:MAX_SCOPES]):
        check_text(scope, f"{prefix}.scopes[{index}]", found)
    if spec.techniques:
        known = sorted(lookups.techniques())
        found += [
            FieldViolation(f"{prefix}.techniques", f"unknown technique {name!r}; known are {known}")
            for name in spec.techniques
            if name not in known
        ]
    found += [_prefixed(violation, prefix) for violation in mismatches(spec, model, dataset)]
    if spec.target in lookups.targets:
        found += [_prefixed(violation, prefix) for violation in size_violations(spec, lookups.targets[spec.target])]
    return spec


def resolve(
    name: str,
    kind: type[ModelName] | type[DatasetName],
    field: str,
    find: Callable[[str], StoredInput | None],
    found: list[FieldViolation],
) -> StoredInput | None:
    """What a field names; a violation is noted for what cannot be a name, or is none."""
    try:
        kind.from_name(name, field)
    except InvalidRequestError as error:
        found.extend(error.violations)
        return None
    stored = find(name)
    if stored is None:
        found.append(FieldViolation(field, f"{name} does not exist; upload it first"))
    return stored


def _target(name: str, field: str, lookups: Lookups, found: list[FieldViolation]) -> str:
    try:
        target = TargetName.from_name(name, field).target
    except InvalidRequestError as error:
        found.extend(error.violations)
        return ""
    if target not in lookups.targets:
        found.append(FieldViolation(field, f"unknown target {target!r}; known are {sorted(lookups.targets)}"))
    return target


def _prefixed(violation: FieldViolation, prefix: str) -> FieldViolation:
    field = _PROTO_FIELDS.get(violation.field, violation.field)
    return replace(violation, field=f"{prefix}.{field}")


def budget_from_proto(proto: search_pb2.Budget, prefix: str, found: list[FieldViolation]) -> Budget:
    """Limits as they stand; `Budget.violations` judges them."""
    return Budget(
        latency_ms=proto.latency_ms if proto.HasField("latency_ms") else None,
        batch_size=proto.batch_size or 1,
        size_name=enums.SIZES.word(proto.size_kind, f"{prefix}.size_kind", found),
        size_bytes=proto.size_bytes if proto.HasField("size_bytes") else None,
        macs=proto.macs if proto.HasField("macs") else None,
        max_accuracy_drop_points=proto.max_accuracy_drop_points if proto.HasField("max_accuracy_drop_points") else None,
        confidence=proto.confidence,
        limits=dict(proto.limits),
    )


def effort_from_proto(proto: search_pb2.Effort) -> Effort:
    """Effort with the defaults for what is not set."""
    wall_time = proto.max_wall_time
    has_wall_time = proto.HasField("max_wall_time")
    return Effort(
        max_trials=proto.max_trials or _DEFAULT_EFFORT.max_trials,
        max_wall_time_s=enums.seconds_of(wall_time) if has_wall_time else _DEFAULT_EFFORT.max_wall_time_s,
        seed=proto.seed,
        max_epochs=proto.max_epochs if proto.HasField("max_epochs") else None,
    )


def pick_from_proto(request: search_pb2.PickBestRequest) -> tuple[Budget, Any]:
    """Budget and preference of a pick.

    Raises:
        InvalidRequestError: with every bad field.
    """
    found: list[FieldViolation] = []
    budget = budget_from_proto(request.budget, "budget", found)
    preference = enums.PREFERENCES.word(request.preference, "preference", found)
    found += [replace(v, field=_PROTO_FIELDS.get(v.field, v.field)) for v in budget.violations()]
    if found:
        raise InvalidRequestError(found)
    return budget, preference


def budget_to_proto(budget: Budget) -> search_pb2.Budget:
    """The same as a proto."""
    return search_pb2.Budget(
        latency_ms=budget.latency_ms,
        batch_size=budget.batch_size,
        size_kind=enums.SIZES.number(budget.size_name),
        size_bytes=budget.size_bytes,
        macs=budget.macs,
        max_accuracy_drop_points=budget.max_accuracy_drop_points,
        confidence=budget.confidence,
        limits=budget.limits,
    )


def duration(seconds: float) -> Duration:
    """Seconds as a proto duration."""
    result = Duration()
    result.FromNanoseconds(round(seconds * 1e9))
    return result


def asked_to_proto(project: str, model: str, dataset: str, display_name: str, spec: SearchSpec) -> search_pb2.Search:
    """What a user asks for in a search."""
    return search_pb2.Search(
        display_name=display_name,
        model=model,
        dataset=dataset,
        target=TargetName(project, spec.target).name,
        budget=budget_to_proto(spec.budget),
        metric=enums.METRICS.number(spec.metric),
        metric_name="" if enums.METRICS.number(spec.metric) else spec.metric,
        preference=enums.PREFERENCES.number(spec.preference),
        expected_accuracy=spec.expected_accuracy,
        scopes=spec.scopes,
        techniques=spec.techniques,
        effort=search_pb2.Effort(
            max_trials=spec.effort.max_trials,
            max_wall_time=duration(spec.effort.max_wall_time_s),
            seed=spec.effort.seed,
            max_epochs=spec.effort.max_epochs,
        ),
    )


def search_to_proto(stored: StoredSearch) -> search_pb2.Search:
    """A stored search."""
    outcome = stored.outcome
    result = asked_to_proto(stored.project, stored.model, stored.dataset, stored.display_name, stored.spec)
    told = search_pb2.Search(
        name=stored.name,
        state=search_pb2.Search.State.Value(stored.state),
        state_message=stored.state_message,
        candidate_count=stored.candidate_count,
        last_sequence=stored.last_sequence,
        estimated_duration=duration(stored.estimated_duration_s),
        create_time=enums.timestamp(stored.create_time),
        start_time=enums.timestamp(stored.start_time),
        end_time=enums.timestamp(stored.end_time),
        etag=stored.etag,
    )
    result.MergeFrom(told)
    if stored.state == "RUNNING" and "progress" in stored.clock:
        result.progress.MergeFrom(_progress_to_proto(stored.clock))
    if stored.plan is not None:
        result.plan.MergeFrom(plan_to_proto(stored.plan, stored.has_ended))
    if outcome:
        _set_outcome(result, outcome)
    return result


def plan_to_proto(plan: SearchPlan, has_ended: bool) -> search_pb2.SearchPlan:
    """A plan; of a search that has ended, what was done of it."""
    phases = [
        search_pb2.SearchPlan.Phase(phase=one.name, duration=duration(one.seconds), message=one.message, over=one.over)
        for one in plan.phases
        if one.over or not has_ended
    ]
    said = {one.phase for one in phases}
    return search_pb2.SearchPlan(
        phases=phases,
        source=search_pb2.SearchPlan.Source.Value(plan.source.upper()),
        trials=plan.trials if SEARCH in said else 0,
        rung_steps=plan.effort.rung_steps,
        batch_size=plan.effort.batch_size,
        last_rung_candidates=plan.last_candidates if LAST_RUNG in said else 0,
        last_rung_steps=plan.last_steps if LAST_RUNG in said else 0,
        finalists=plan.finalists if FINALS in said else 0,
    )


def _progress_to_proto(clock: Mapping[str, Any]) -> search_pb2.SearchProgress:
    return search_pb2.SearchProgress(
        **clock["progress"],
        elapsed=duration(clock["spent_s"]),
        remaining=duration(max(clock["limit_s"] - clock["spent_s"], 0.0)),
        update_time=enums.timestamp(clock["noted"]),
    )


def _set_outcome(result: search_pb2.Search, outcome: Mapping[str, Any]) -> None:
    def name(candidate_id: str | None) -> str:
        return f"{result.name}/candidates/{candidate_id}" if candidate_id else ""

    result.best, result.nearest = name(outcome["best"]), name(outcome["nearest"])
    result.front.extend(name(c) for c in outcome["front"])
    result.broken_limits.extend(broken_limits_to_proto(outcome["broken_limits"]))
    if outcome["report_sha256"]:
        result.artifacts.add(artifact="report.json", sha256=outcome["report_sha256"])


def broken_limits_to_proto(broken: Mapping[str, float]) -> list[search_pb2.BrokenLimit]:
    """Which limits are broken, and by how much."""
    return [search_pb2.BrokenLimit(limit=limit, excess=float(excess)) for limit, excess in broken.items()]


def event_to_proto(event: StoredEvent) -> search_pb2.SearchEvent:
    """A stored event."""
    kind = search_pb2.SearchEvent.Kind.Value(event.kind.upper())
    payload = Struct()
    payload.update(_finite(event.payload))
    return search_pb2.SearchEvent(
        sequence=event.sequence, kind=kind, message=event.message, payload=payload, time=enums.timestamp(event.time)
    )


def _finite(value: Any) -> Any:
    """JSON has no infinities: they become words, at any depth."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
