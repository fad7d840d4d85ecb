"""What each rpc needs: the one table of authorisation. An rpc that is not in it is only for callers who may do everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from service.access.principal import Principal, Scope
from service.errors import ForeignProjectError, InvalidRequestError, PermissionDeniedError
from service.resources import project_of


@dataclass(frozen=True)
class Rule:
    """What a caller needs for one rpc.

    Attributes:
        scope: the least; None for what is open to everybody.
        resource: path of the field that says what the call is about (a name or a parent); empty where it is about no project.
        references: paths of fields that name other resources.
    """

    scope: Scope | None
    resource: str = ""
    references: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether nobody has to say who they are."""
        return self.scope is None

    @property
    def changes(self) -> bool:
        """Whether it changes something, so that the audit log must have it."""
        return self.scope is not None and self.scope > Scope.READ

    def check_scope(self, principal: Principal, method: str) -> None:
        """Refuse a caller whose scope does not reach so far.

        Raises:
            PermissionDeniedError: says which scope would do.
        """
        if self.scope is not None and principal.scope < self.scope:
            words = f"{method.rpartition('/')[2]} needs the scope {self.scope.name}, {principal.id} has {principal.scope.name}"
            raise PermissionDeniedError(f"{words}; ask an administrator of the project for a token with more")

    def check_projects(self, principal: Principal, request: Message) -> None:
        """Refuse a request that names a resource of a project that is not the caller's, before anything is looked up.

        Raises:
            ForeignProjectError: in the words that are used where nothing of that name exists.
            InvalidRequestError: the resource's name is none, so that nobody knows whose it is.
        """
        if principal.has_all_projects:
            return
        for path in (self.resource, *self.references):
            for name in texts_at(request, path):
                project = project_of(name)
                if project is None and path == self.resource:
                    raise InvalidRequestError.of(path, f"must look like projects/{{project}}/..., got {name[:200]!r}")
                if project is not None and not principal.may_enter(project):
                    raise ForeignProjectError(f"{name[:300]} does not exist")

    def resource_of(self, request: Message) -> str:
        """What the call is about, for the audit log."""
        return next(texts_at(request, self.resource), "")


def texts_at(message: Any, path: str) -> Iterator[str]:
    """The texts that a dotted path leads to; a repeated field gives several."""
    if not path:
        return
    for part in path.split("."):
        message = getattr(message, part)
    yield from [message] if isinstance(message, str) else message


_OPEN = Rule(None)
_UNKNOWN = Rule(Scope.ADMIN)


def _read(resource: str = "name", *references: str) -> Rule:
    return Rule(Scope.READ, resource, references)


def _write(resource: str = "name", *references: str) -> Rule:
    return Rule(Scope.WRITE, resource, references)


def _admin(resource: str) -> Rule:
    return Rule(Scope.ADMIN, resource)


_TEMPLATE = tuple(f"schedule.template.{field}" for field in ("model", "dataset", "target"))

_SERVICES: Mapping[str, Mapping[str, Rule]] = {
    "paretopress.v1.ModelService": {
        "UploadModel": _write("metadata.parent"),
        "QueryModelUpload": _read("parent"),
        "GetModel": _read(),
        "ListModels": _read("parent"),
        "DeleteModel": _write(),
    },
    "paretopress.v1.DatasetService": {
        "UploadDataset": _write("metadata.parent"),
        "ImportDataset": _write("parent"),
        "QueryDatasetUpload": _read("parent"),
        "GetDataset": _read(),
        "ListDatasets": _read("parent"),
        "DeleteDataset": _write(),
    },
    "paretopress.v1.TargetService": {
        "GetTarget": _read(),
        "ListTargets": _read("parent"),
        "CreateTarget": _write("parent", "target.name"),
        "DeleteTarget": _write(),
        "PredictLatency": _read("model", "target"),
        "CompareTargets": _read("model", "targets"),
        "CalibrateTarget": _write(),
        "GetCalibration": _read(),
        "ListCalibrations": _read("parent"),
        "CancelCalibration": _write(),
    },
    "paretopress.v1.TechniqueService": {"ListTechniques": Rule(Scope.READ)},
    "paretopress.v1.SearchService": {
        "CreateSearch": _write("parent", "search.model", "search.dataset", "search.target"),
        "GetSearch": _read(),
        "ListSearches": _read("parent"),
        "WatchSearch": _read(),
        "CancelSearch": _write(),
        "DeleteSearch": _write(),
        "PickBest": _read(),
        "ExtendSearch": _write(),
        "ListCandidates": _read("parent"),
        "GetCandidate": _read(),
        "DownloadArtifact": _read(),
    },
    "paretopress.v1.ScheduleService": {
        "CreateSchedule": _write("parent", *_TEMPLATE),
        "GetSchedule": _read(),
        "ListSchedules": _read("parent"),
        "UpdateSchedule": _write("schedule.name", *_TEMPLATE),
        "DeleteSchedule": _write(),
        "PauseSchedule": _write(),
        "ResumeSchedule": _write(),
        "RunSchedule": _write(),
        "ListScheduleRuns": _read("parent"),
    },
    "paretopress.v1.AccessService": {
        "CreateToken": _admin("parent"),
        "ListTokens": _admin("parent"),
        "RevokeToken": _admin("name"),
    },
    "grpc.health.v1.Health": {"Check": _OPEN, "List": _OPEN, "Watch": _OPEN},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": Rule(Scope.READ)},
}
RULES: Mapping[str, Rule] = {f"/{service}/{rpc}": rule for service, rpcs in _SERVICES.items() for rpc, rule in rpcs.items()}
"""By ``/package.Service/Method``."""


def rule_of(method: str) -> Rule:
    """The rule of a method."""
    return RULES.get(method, _UNKNOWN)
