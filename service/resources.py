"""Every resource name of the service, parsed and built in one place."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import ClassVar, Self

from service.errors import InvalidRequestError

_ID = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
ID_RULE = "1 to 63 of a-z, 0-9 and inner hyphens"


def project_of(name: str) -> str | None:
    """The project that a resource's name begins with; None if it begins with none.

    Whatever one of the classes below parses, this finds the same project in.
    """
    match = re.match(rf"{ProjectName.pattern}(?:/|\Z)", name)
    return match["project"] if match else None


def is_resource_id(text: str) -> bool:
    """Whether the text can be the last part of a name."""
    return re.fullmatch(_ID, text) is not None


def work_folder_name(search_name: str) -> str:
    """Name of the folder with a search's checkpoints."""
    return search_name.replace("/", "-")


def new_id(prefix: str) -> str:
    """A fresh id such as ``m-4f0c2a91d3e7``."""
    return f"{prefix}-{secrets.token_hex(6)}"


@dataclass(frozen=True)
class ProjectName:
    """``projects/{project}``."""

    project: str

    pattern: ClassVar[str] = f"projects/(?P<project>{_ID})"
    shape: ClassVar[str] = "projects/{project}"

    @classmethod
    def from_name(cls, name: str, field: str = "name") -> Self:
        """Parse a name.

        Raises:
            InvalidRequestError: names the field and the expected shape.
        """
        match = re.fullmatch(cls.pattern, name)
        if match is None:
            raise InvalidRequestError.of(field, f"must look like {cls.shape}, got {name!r}")
        return cls(**match.groupdict())

    @property
    def name(self) -> str:
        """The full name."""
        return self.shape.format(**vars(self))


@dataclass(frozen=True)
class ModelName(ProjectName):
    """``projects/{project}/models/{model}``."""

    model: str

    pattern: ClassVar[str] = f"{ProjectName.pattern}/models/(?P<model>{_ID})"
    shape: ClassVar[str] = "projects/{project}/models/{model}"


@dataclass(frozen=True)
class DatasetName(ProjectName):
    """``projects/{project}/datasets/{dataset}``."""

    dataset: str

    pattern: ClassVar[str] = f"{ProjectName.pattern}/datasets/(?P<dataset>{_ID})"
    shape: ClassVar[str] = "projects/{project}/datasets/{dataset}"


@dataclass(frozen=True)
class TargetName(ProjectName):
    """``projects/{project}/targets/{target}``."""

    target: str

    pattern: ClassVar[str] = f"{ProjectName.pattern}/targets/(?P<target>{_ID})"
    shape: ClassVar[str] = "projects/{project}/targets/{target}"


@dataclass(frozen=True)
class CalibrationName(TargetName):
    """``projects/{project}/targets/{target}/calibrations/{calibration}``."""

    calibration: str

    pattern: ClassVar[str] = f"{TargetName.pattern}/calibrations/(?P<calibration>{_ID})"
    shape: ClassVar[str] = "projects/{project}/targets/{target}/calibrations/{calibration}"


@dataclass(frozen=True)
class TokenName(ProjectName):
    """``projects/{project}/tokens/{token}``."""

    token: str

    pattern: ClassVar[str] = f"{ProjectName.pattern}/tokens/(?P<token>{_ID})"
    shape: ClassVar[str] = "projects/{project}/tokens/{token}"


@dataclass(frozen=True)
class ScheduleName(ProjectName):
    """``projects/{project}/schedules/{schedule}``."""

    schedule: str

    pattern: ClassVar[str] = f"{ProjectName.pattern}/schedules/(?P<schedule>{_ID})"
    shape: ClassVar[str] = "projects/{project}/schedules/{schedule}"


@dataclass(frozen=True)
class SearchName(ProjectName):
    """``projects/{project}/searches/{search}``."""

    search: str

    pattern: ClassVar[str] = f"{ProjectName.pattern}/searches/(?P<search>{_ID})"
    shape: ClassVar[str] = "projects/{project}/searches/{search}"


@dataclass(frozen=True)
class CandidateName(SearchName):
    """``projects/{project}/searches/{search}/candidates/{candidate}``."""

    candidate: str

    pattern: ClassVar[str] = f"{SearchName.pattern}/candidates/(?P<candidate>{_ID})"
    shape: ClassVar[str] = "projects/{project}/searches/{search}/candidates/{candidate}"

    @property
    def search_name(self) -> str:
        """Name of the search that it belongs to."""
        return SearchName(self.project, self.search).name
