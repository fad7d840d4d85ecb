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


class OutsideError(Exception):
    """Comes from outside of what was tried, and is never its fault: the search is to stop, the runtime or the store is away."""


class SearchCancelledError(SearchError, OutsideError):
    """The search was asked to stop."""


class OptionSkippedError(SearchError):
    """A technique cannot do this to this network; the message is the reason, and the search goes on without it."""


class TimeLimitError(OptionSkippedError):
    """It took more than the time that is stated for it, and was stopped."""


class UnexpectedError(SearchError):
    """A fault of ours; the message names phase and kind, and the log has the traceback."""


class RuntimeLostError(SearchError, OutsideError):
    """What the trials run in went away under them; all that is stored is kept, and the search can go on from there."""


class ClusterError(SearchError, OutsideError):
    """The Ray cluster cannot be used as things are, or gave nothing for too long; the message says what to change."""
