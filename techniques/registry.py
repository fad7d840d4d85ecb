"""All techniques by name. Adding one: write its file and add it to the tuple below, or install a package that brings it.

A package of your own brings techniques by an entry point of the group ``paretopress.techniques`` that names the class::

    [project.entry-points."paretopress.techniques"]
    my_technique = "my_package.my_technique:MyTechnique"

Server, workers and trials all find it where the package is installed. What cannot be loaded is named in the log and left out.
"""

from __future__ import annotations

import logging
from typing import Any

from techniques.base import MAX_SETTINGS, Technique
from techniques.distillation.soft_targets import Distillation
from techniques.errors import ConfigError
from techniques.low_rank.decompose import LowRank
from techniques.option import STAGES
from techniques.plugins import register_installed
from techniques.pruning.block_removal import BlockRemoval
from techniques.pruning.structured import StructuredPruning
from techniques.quantization.static_int8 import Int8Quantization
from techniques.resolution.resize import InputResolution

ENTRY_POINTS = "paretopress.techniques"
_LOG = logging.getLogger("paretopress.techniques")
_TECHNIQUES: dict[str, Technique[Any]] = {}


def register(technique: Technique[Any]) -> None:
    """Add a technique.

    Raises:
        ValueError: the name is taken, the stage is none, or it has more settings than a search can vary.
    """
    if technique.name in _TECHNIQUES:
        raise ValueError(f"technique {technique.name!r} is registered twice")
    if technique.stage not in STAGES:
        raise ValueError(f"technique {technique.name!r} is of the stage {technique.stage!r}; there are {list(STAGES)}")
    if len(technique.settings()) > MAX_SETTINGS:
        raise ValueError(f"technique {technique.name!r} has {len(technique.settings())} settings, at most {MAX_SETTINGS}")
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
register_installed(ENTRY_POINTS, register, "technique", _LOG)
