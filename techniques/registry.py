"""All techniques by name. Adding one: write its file, add it to the tuple below; the contract tests pick it up."""

from __future__ import annotations

from typing import Any

from techniques.base import Technique
from techniques.distillation.soft_targets import Distillation
from techniques.errors import ConfigError
from techniques.low_rank.decompose import LowRank
from techniques.pruning.block_removal import BlockRemoval
from techniques.pruning.structured import StructuredPruning
from techniques.quantization.static_int8 import Int8Quantization
from techniques.resolution.resize import InputResolution

_TECHNIQUES: dict[str, Technique[Any]] = {}


def register(technique: Technique[Any]) -> None:
    """Add a technique.

    Raises:
        ValueError: the name is taken.
    """
    if technique.name in _TECHNIQUES:
        raise ValueError(f"technique {technique.name!r} is registered twice")
    _TECHNIQUES[technique.name] = technique


def get(name: str) -> Technique[Any]:
    """The technique of that name.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    try:
        return _TECHNIQUES[name]
    except KeyError:
        raise ConfigError(f"unknown technique {name!r}; known are {sorted(_TECHNIQUES)}") from None


def all_techniques() -> tuple[Technique[Any], ...]:
    """Every registered technique, in the order of registration."""
    return tuple(_TECHNIQUES.values())


for _technique in (InputResolution(), BlockRemoval(), StructuredPruning(), LowRank(), Distillation(), Int8Quantization()):
    register(_technique)
