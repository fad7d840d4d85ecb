"""Searchable parameters: what a technique may be asked to do to a given network, as small closed ranges."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FloatParameter:
    """A real number in ``[low, high]``; ``default`` is what a person would try first."""

    name: str
    low: float
    high: float
    default: float
    log: bool = False


@dataclass(frozen=True)
class IntParameter:
    """A whole number in ``[low, high]``."""

    name: str
    low: int
    high: int
    default: int


@dataclass(frozen=True)
class ChoiceParameter:
    """One of a few values; values are JSON scalars."""

    name: str
    choices: tuple[str | int | float | bool, ...]
    default: str | int | float | bool


Parameter = FloatParameter | IntParameter | ChoiceParameter
