"""What this installation can do to a network: found out once, in a child, since only torch can tell."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.intake.sandbox import run_in_sandbox


@dataclass(frozen=True)
class KnownSetting:
    """A number between ``low`` and ``high``, or one of ``choices``."""

    name: str
    default: str
    low: float = 0.0
    high: float = 0.0
    choices: Sequence[str] = ()


@dataclass(frozen=True)
class KnownTechnique:
    """One technique, as `techniques.base.Technique` has it; ``axis`` is empty where it trains, by itself or with others."""

    name: str
    version: int
    stage: str
    cites: str
    not_supported_on: str
    axis: str = ""
    trains: bool = False
    reduces: Sequence[str] = ()
    settings: Sequence[KnownSetting] = field(default=())


@functools.cache
def known_techniques() -> tuple[KnownTechnique, ...]:
    """All of them in the order of recipes; takes a second the first time."""
    found = run_in_sandbox("service.child_functions:describe_techniques", {})["techniques"]
    return tuple(KnownTechnique(**{**one, "settings": tuple(KnownSetting(**s) for s in one["settings"])}) for one in found)


def any_trains(names: tuple[str, ...]) -> bool:
    """Whether any of these techniques trains by itself; all are meant where none is named."""
    return not names or any(technique.trains for technique in known_techniques() if technique.name in names)


def technique_names() -> tuple[str, ...]:
    """As requests name them."""
    return tuple(technique.name for technique in known_techniques())
