"""What a stored search or schedule was asked to do, also where another version of Paretopress has stored it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from search.spec import Budget, Effort, SearchSpec
from service.errors import PreconditionError
from service.schedules.spec import ScheduleSpec

Spec = TypeVar("Spec")


def read_spec(text: str) -> SearchSpec:
    """The request of a search.

    Raises:
        PreconditionError: this version cannot read it.
    """
    return _read(SearchSpec.from_json, text, "search")


def read_schedule(text: str) -> ScheduleSpec:
    """What a schedule was made for.

    Raises:
        PreconditionError: this version cannot read it.
    """
    return _read(ScheduleSpec.from_json, text, "schedule")


def _read(reader: Callable[[str], Spec], text: str, what: str) -> Spec:
    try:
        return reader(text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        words = f"this version of Paretopress cannot read the request ({reason}); another version has stored it"
        raise PreconditionError(f"{words}. Create the {what} again") from error


def shown_spec(text: str) -> SearchSpec:
    """The request of a search, as far as it can be read: for those who list it, and count what it takes."""
    try:
        return read_spec(text)
    except PreconditionError:
        try:
            found = json.loads(text)
            target, wall_time_s = str(found["target"]), float(found["effort"]["max_wall_time_s"])
        except (ValueError, TypeError, KeyError):
            target, wall_time_s = "", 0.0
        return SearchSpec("", "", target, Budget(), Effort(max_wall_time_s=wall_time_s))
