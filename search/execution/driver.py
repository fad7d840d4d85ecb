"""What the driver decides while trials run; the searcher and the scheduler only carry its word to Ray Tune."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Protocol, Self

from search.execution.trial import TrialPlan
from search.execution.word import Word


class Wait(Enum):
    """No trial now, but perhaps later."""

    WAIT = 0


WAIT = Wait.WAIT


class TrialDriver(Protocol):
    """Called in the driver's own thread, one call at a time."""

    def propose(self) -> TrialPlan | Wait | None:
        """The next trial, `WAIT` where there may be one once others have ended, or None when there is no more."""
        ...

    def report(self, number: int, rung: int, values: Mapping[str, Any]) -> bool:
        """A trial finished a rung; returns whether it goes on to the next one."""
        ...

    def failed(self, number: int, rung: int, message: str) -> None:
        """A trial gave no values."""
        ...

    def heard(self, word: Word) -> None:
        """How far a trial is, while its rung goes on; about once a second."""
        ...

    def should_stop(self) -> bool:
        """Whether everything has to end now; asked several times a second."""
        ...

    def note(self, message: str, facts: Mapping[str, Any] | None = None, warning: bool = False) -> None:
        """What whoever watches should know of the cluster: its nodes, what is waited for, what was sent."""
        ...


class DriverBound:
    """Something of Tune's that carries the driver. Tune pickles it for a restore that is never used (contract 6); the driver,
    with its open databases, stays out of that, and copies in this process stay bound to the same driver."""

    _driver: TrialDriver

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_driver"}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
