"""The order of classes that are given by name: the text's, and a word wherever another order is as likely the model's."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from typing import Any

_DIGITS = re.compile(r"(\d{1,18})")
_SHOWN = 6


def sort_classes(names: Collection[str]) -> tuple[str, ...]:
    """Names by their characters' code points: so do torchvision's ImageFolder, Keras, scikit-learn's LabelEncoder and pandas.

    >>> sort_classes(["2", "10", "cat", "Dog"])
    ('10', '2', 'Dog', 'cat')
    """
    return tuple(sorted(names))


def other_order(names: Sequence[str]) -> str:
    """A sentence if sorted names would stand otherwise by number, without regard to case, or in another Unicode form; else empty.

    >>> other_order(["1", "10", "2"])[:60]
    "were sorted as text, as torchvision's ImageFolder does: 1, 10"
    """
    for how, key in _ORDERS.items():
        other = sorted(names, key=key)
        if other != list(names):
            first = next(i for i, name in enumerate(names) if name != other[i])
            text, differing = (_shown(order, first) for order in (names, other))
            return (
                f"were sorted as text, as torchvision's ImageFolder does: {text}; {how} the order would be {differing}. "
                "If the model's outputs are in that order, state class_names"
            )
    return ""


def alike(names: Sequence[str]) -> str:
    """A sentence if two names differ in case or spaces only, as one class that was written in two ways does; else empty.

    >>> alike(["Cat", "cat", "dog"])
    "'Cat' and 'cat' are two classes, though they differ in case or spaces only"
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(" ".join(name.casefold().replace("_", " ").split()), name)
        if other != name:
            return f"{other!r} and {name!r} are two classes, though they differ in case or spaces only"
    return ""


def _by_number(name: str) -> tuple[tuple[int, str], ...]:
    parts = _DIGITS.split(name)
    return tuple((int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts))


_ORDERS: dict[str, Callable[[str], Any]] = {
    "by number": _by_number,
    "without regard to case": str.casefold,
    "in Unicode's decomposed form (macOS)": lambda name: unicodedata.normalize("NFD", name),
}


def _shown(names: Sequence[str], first: int) -> str:
    """Some names around the first that differs."""
    start = max(0, first - 1)
    before, after = ("... " if start else ""), (", ..." if start + _SHOWN < len(names) else "")
    return before + ", ".join(names[start : start + _SHOWN]) + after
