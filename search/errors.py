"""The error root of the search core and its leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class SearchError(Exception):
    """Root of everything that the search raises on purpose."""


@dataclass(frozen=True)
class FieldViolation:
    """One bad field of a request: where it is, and what is wrong and would be right."""

    field: str
    description: str


class InvalidSpecError(SearchError):
    """The request contradicts itself or asks for what cannot be; carries every bad field at once."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class BaselineError(SearchError):
    """The original does not do on the given data what it should: near chance, or below ``expected_accuracy``."""


class SearchCancelledError(SearchError):
    """The search was asked to stop."""


class RuntimeLostError(SearchError):
    """What the trials run in went away under them; all that is stored is kept, and the search can go on from there."""
