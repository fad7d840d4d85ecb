"""What intake refuses, and how it says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

MAX_PROBLEMS_LISTED = 100

IntakeCode = Literal[
    "pickled",
    "unsafe",
    "unreadable",
    "unsupported",
    "too_large",
    "unsafe_path",
    "bad_option",
    "bad_data",
    "not_allowed",
    "not_found",
]
SandboxKind = Literal["timeout", "memory", "file_size", "crash"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset: where (file, row, class) and what. A warning does not refuse the dataset."""

    place: str
    what: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


class IntakeError(Exception):
    """An upload or a path that is refused; the message says what, where and what to do.

    Attributes:
        code: closed list, for programs.
        field: the request's field that is to blame, such as ``preprocessing.height``; empty for the upload itself.
        problems: the first `MAX_PROBLEMS_LISTED` problems of a dataset, one by one.
        problem_count: how many there were in all.
    """

    def __init__(
        self, code: IntakeCode, message: str, field: str = "", problems: Sequence[Problem] = (), problem_count: int | None = None
    ) -> None:
        super().__init__(message)
        self.code: IntakeCode = code
        self.message = message
        self.field = field
        self.problems = tuple(problems)
        self.problem_count = len(self.problems) if problem_count is None else problem_count

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object, for the way out of the sandbox."""
        return {
            "code": self.code,
            "message": self.message,
            "field": self.field,
            "problems": [asdict(p) for p in self.problems],
            "problem_count": self.problem_count,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> IntakeError:
        """Read what `to_json` gave."""
        return IntakeError(**{**data, "problems": [Problem(**p) for p in data["problems"]]})

    def __reduce__(self) -> tuple[Any, ...]:
        return IntakeError.from_json, (self.to_json(),)


class SandboxError(Exception):
    """The sandbox child was ended or died; the message is a sentence for the user, ``detail`` is for the log only."""

    def __init__(self, kind: SandboxKind, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.kind: SandboxKind = kind
        self.message = message
        self.detail = detail


class ProblemLog:
    """Collects problems one by one; keeps the first hundred and counts all.

    With ``skip_bad``, a bad image or row is left out with a warning instead of refusing the dataset.
    """

    def __init__(self, skip_bad: bool = False) -> None:
        self.skip_bad = skip_bad
        self.listed: list[Problem] = []
        self.error_count = 0
        self.warning_count = 0

    def bad(self, place: str, what: str) -> None:
        """Note one image or row that cannot be used."""
        if self.skip_bad:
            self.warn(place, f"left out: {what}")
        else:
            self.error(place, what)

    def error(self, place: str, what: str) -> None:
        """Note a problem that refuses the dataset."""
        self.error_count += 1
        self._list(Problem(place, what))

    def warn(self, place: str, what: str) -> None:
        """Note a problem that the report mentions."""
        self.warning_count += 1
        self._list(Problem(place, what, "warning"))

    def _list(self, problem: Problem) -> None:
        if len(self.listed) < MAX_PROBLEMS_LISTED:
            self.listed.append(problem)

    def raise_if_refused(self) -> None:
        """Refuse the dataset if anything in it is an error.

        Raises:
            IntakeError: with every problem, up to `MAX_PROBLEMS_LISTED`.
        """
        if self.error_count:
            errors = [p for p in self.listed if p.severity == "error"]
            first = f"; first: {errors[0]}" if errors else ""
            message = f"the dataset has {self.error_count} problem(s){first}"
            raise IntakeError("bad_data", message, "dataset", self.listed, self.error_count + self.warning_count)
