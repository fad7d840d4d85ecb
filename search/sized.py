"""The size that a request means is that of the file which its target runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from search.errors import FieldViolation, InvalidSpecError
from search.runtimes import RUNTIMES, runtime_of
from search.spec import Budget, SearchSpec

if TYPE_CHECKING:
    from hw_models.targets import Target
    from search.spec import SizeName

_UNSAID = Budget.size_name
"""The size that a budget has where the request names none."""


def size_violations(spec: SearchSpec, target: Target) -> list[FieldViolation]:
    """Limits on files that the target does not run."""
    artifact, budget = runtime_of(target).artifact, spec.budget
    others = {runtime.artifact.size_name: runtime.artifact.name for runtime in RUNTIMES.values()}
    others.pop(artifact.size_name, None)
    asked = {f"budget.limits[{name}]": name for name in budget.limits}
    if budget.size_bytes is not None:
        asked["budget.size_name"] = budget.size_name
    words = f"is not what {target.name} runs: limit {artifact.size_name} in budget.limits, or weight_size_bytes"
    return [FieldViolation(field, f"{others[name]} {words}") for field, name in asked.items() if name in others]


def sized(spec: SearchSpec, target: Target) -> SearchSpec:
    """The request, with the size of the file that the target runs in place of one that was not said.

    Raises:
        InvalidSpecError: it limits the size of a file that the target does not run.
    """
    found = size_violations(spec, target)
    if found:
        raise InvalidSpecError(found)
    size_name = runtime_of(target).artifact.size_name
    if spec.budget.size_name != _UNSAID or size_name == _UNSAID:
        return spec
    return replace(spec, budget=replace(spec.budget, size_name=cast("SizeName", size_name)))
