"""Finding what does not hold among many claims with few trials: all together first, halves of them only where that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from techniques.errors import FAILURES, TechniqueError

Trial = Callable[[Sequence[str]], str]
"""Tries some claims together; returns what was wrong, "" if nothing was."""


def disproved(names: Sequence[str], trial: Trial) -> dict[str, str]:
    """The claims that fail, with what was found: alone, or, where no part of a failing set does, all of that set.

    Whatever a trial raises counts as wrong.
    """
    if not names:
        return {}
    try:
        found = trial(names)
    except (TechniqueError, *FAILURES) as error:
        found = f"fails: {type(error).__name__}: {str(error)[:200]}"
    if not found:
        return {}
    if len(names) == 1:
        return {names[0]: found}
    half = len(names) // 2
    wrong = disproved(names[:half], trial) | disproved(names[half:], trial)
    # Halves that hold alone but not together: which of them is at fault is not known, so none of them counts as proven.
    return wrong or dict.fromkeys(names, f"only together: {found}")
