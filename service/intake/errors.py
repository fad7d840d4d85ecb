"""What intake refuses, and how it says so."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

MAX_PROBLEMS_LISTED = 100
_MAX_MESSAGE, _MAX_PLACE = 2000, 300

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", printable(self.place, _MAX_PLACE))
        object.__setattr__(self, "what", printable(self.what, _MAX_PLACE))

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


def printable(text: str, length: int) -> str:
    """Text of an upload for people: without control characters (a terminal obeys them), and cut where it is long."""
    clean = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text[: length + 1])
    return clean if len(clean) <= length else clean[: length - 4] + " ..."


@contextlib.contextmanager
def refusing(code: IntakeCode, what: str, field: str) -> Iterator[None]:
    """Whatever a foreign reader raises about an upload refuses it. Our own refusals pass, and so does a lack of memory.

    Raises:
        IntakeError: ``what``, and the reader's words.
    """
    try:
        yield
    except (IntakeError, MemoryError):
        raise
    except Exception as error:
        raise IntakeError(code, f"{what}: {reason(error)}", field) from error


def reason(error: Exception) -> str:
    """A foreign reader's error in a line; its kind where it says nothing."""
    if isinstance(error, RecursionError):
        return f"nested more than {sys.getrecursionlimit()} levels deep"
    return printable(str(error).strip().partition("\n")[0], _MAX_PLACE) or type(error).__name__


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
        message = printable(message, _MAX_MESSAGE)
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
        self.notes: list[str] = []
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
        """Note a problem that the answer to the upload mentions."""
        self.warning_count += 1
        self._list(Problem(place, what, "warning"))

    def note(self, place: str, what: str) -> None:
        """Note a problem that the report of every search must mention: the answer may be wrong because of it."""
        self.warn(place, what)
        self.notes.append(str(Problem(place, what)))

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
