"""Hostile values anywhere in a JSON document."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from random import Random
from typing import Any


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    nested: Any = []
    for _ in range(levels):
        nested = [nested]
    return nested


def hostile_values(code: Sequence[str]) -> list[Any]:
    """What no reader expects."""
    numbers = [-1, 0, 1, 2**31, 2**63, -(2**63), 10**40, 1e308, float("nan"), float("inf"), -0.5]
    texts = ["", "\0", "x" * 5000, "../../etc/passwd", "/etc/passwd", "a\nb", "\u202e", "NaN", "__class__", "self", *code]
    return [None, True, False, *numbers, *texts, [], {}, [None], {"": {}}, deep(50)]


def change(random: Random, document: Any, values: Sequence[Any], times: int = 1) -> Any:
    """Replace, delete, double or rename something; always a copy."""
    changed = copy.deepcopy(document)
    for _ in range(times):
        holders = list(_holders(changed))
        if not holders:
            return random.choice(values)
        holder, key = random.choice(holders)
        action = random.random()
        if action < 0.6:
            holder[key] = copy.deepcopy(random.choice(values))
        elif action < 0.75:
            del holder[key]
        elif action < 0.85 and isinstance(holder, dict):
            holder[str(random.choice(values))[:300]] = holder.pop(key)
        elif isinstance(holder, list):
            holder.extend([copy.deepcopy(holder[key]) for _ in range(random.choice((1, 50)))])
        else:
            other, other_key = random.choice(holders)
            holder[key] = copy.deepcopy(other[other_key]) if _has(other, other_key) else None
    return changed


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _holders(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        yield value, key
        yield from _holders(child)
