"""What a schedule is: when, what, and what to do when something comes in between."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from search.errors import FieldViolation
from search.spec import SearchSpec
from service.schedules.cron import CronLine

MisfirePolicy = Literal["run_once", "skip_missed", "run_all"]
OverlapPolicy = Literal["skip", "queue", "cancel_previous"]
DEFAULT_GRACE_S, SHORTEST_GRACE_S, LONGEST_GRACE_S = 3600.0, 60.0, 7 * 24 * 3600.0
_ENTRY_NAME = r"""[^/@:'"`\\\x00-\x1f\x7f]{1,200}"""
_ALIAS = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
_RESERVED_ALIAS = r"(?i:latest|v[0-9]+)"
REFERENCE_SHAPE = "models:/{name}@{alias} or models:/{name}/{version}"
REFERENCE_PREFIX = "models:/"


@dataclass(frozen=True)
class RegistryReference:
    """A model in the MLflow registry: the version that an alias points at, or a fixed one."""

    model_name: str
    alias: str = ""
    version: str = ""

    @staticmethod
    def parse(text: str) -> RegistryReference | None:
        """Read ``models:/name@alias`` or ``models:/name/version``; None for anything else."""
        pattern = rf"{REFERENCE_PREFIX}({_ENTRY_NAME})(?:@({_ALIAS})|/([1-9][0-9]{{0,8}}))"
        match = re.fullmatch(pattern, text)
        return RegistryReference(match[1], match[2] or "", match[3] or "") if match else None


@dataclass(frozen=True)
class RegistryEntry:
    """Where a result is registered."""

    model_name: str
    alias: str

    def violations(self) -> list[FieldViolation]:
        """What MLflow would not take."""
        found = []
        if not re.fullmatch(_ENTRY_NAME, self.model_name):
            found.append(
                FieldViolation("model_name", f"must be 1 to 200 characters without / : @ and quotes, got {self.model_name[:200]!r}")
            )
        if not re.fullmatch(_ALIAS, self.alias) or re.fullmatch(_RESERVED_ALIAS, self.alias):
            words = "must be 1 to 100 of A-Z a-z 0-9 _ . -, and neither latest nor v1, v2, ..."
            found.append(FieldViolation("alias", f"{words}; got {self.alias[:100]!r}"))
        return found


@dataclass(frozen=True)
class Timing:
    """When a schedule is due. Times are seconds since the epoch; ``misfire_grace_s`` is how late a run may be."""

    cron: str
    time_zone: str = "UTC"
    start_time: float | None = None
    end_time: float | None = None
    misfire_policy: MisfirePolicy = "run_once"
    misfire_grace_s: float = DEFAULT_GRACE_S

    @property
    def line(self) -> CronLine:
        """The due times, whatever start and end."""
        return CronLine(self.cron, self.time_zone)

    def violations(self) -> list[FieldViolation]:
        """Every bad field."""
        found = self.line.violations()
        if self.start_time is not None and self.end_time is not None and self.end_time <= self.start_time:
            found.append(FieldViolation("end_time", "must be after start_time"))
        if not SHORTEST_GRACE_S <= self.misfire_grace_s <= LONGEST_GRACE_S:
            found.append(FieldViolation("misfire_grace", f"must be 1 minute to 7 days, got {self.misfire_grace_s:g} s"))
        return found

    def next_after(self, moment: float) -> float | None:
        """The first due time behind a moment that start and end allow."""
        begin = moment if self.start_time is None else max(moment, self.start_time - 1e-3)
        due = self.line.after(begin)
        return None if due is None or (self.end_time is not None and due >= self.end_time) else due


@dataclass(frozen=True)
class SearchTemplate:
    """The search that is started. ``model`` is a resource name or a registry reference, ``dataset`` a resource name.

    The digests in ``spec`` mean nothing: model and dataset are looked up anew for each run.
    """

    model: str
    dataset: str
    display_name: str
    spec: SearchSpec

    @property
    def reference(self) -> RegistryReference | None:
        """Where the model comes from, if it is not a resource."""
        return RegistryReference.parse(self.model)


@dataclass(frozen=True)
class ScheduleSpec:
    """All that a user says about a schedule."""

    display_name: str
    timing: Timing
    template: SearchTemplate
    overlap_policy: OverlapPolicy = "skip"
    rerun_unchanged: bool = False
    register_as: RegistryEntry | None = None

    def to_json(self) -> str:
        """Canonical text, with type and version."""
        template = {**asdict(self.template), "spec": json.loads(self.template.spec.to_json())}
        return json.dumps({"type": "schedule", "version": 1, **asdict(self), "template": template}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> ScheduleSpec:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not a schedule of a known version.
        """
        data: dict[str, Any] = json.loads(text)
        if data.pop("type", None) != "schedule" or data.pop("version", None) != 1:
            raise ValueError("not a schedule of a known version")
        template = data.pop("template")
        search = SearchSpec.from_json(json.dumps(template.pop("spec")))
        entry = data.pop("register_as")
        return ScheduleSpec(
            timing=Timing(**data.pop("timing")),
            template=SearchTemplate(**template, spec=search),
            register_as=RegistryEntry(**entry) if entry else None,
            **data,
        )
