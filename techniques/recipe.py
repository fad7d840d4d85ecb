"""A recipe: the frozen, ordered list of steps that turns the original into a candidate. JSON in and out, no effort in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from techniques.errors import ConfigError

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
MAX_STEPS = 64


@dataclass(frozen=True)
class Step:
    """One technique with its version and configuration.

    Attributes:
        technique: registered name, such as ``structured_pruning``.
        config: JSON object that the technique's own config class reads (``Technique.parse_config``).
    """

    technique: str
    config: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1

    def __post_init__(self) -> None:
        frozen: dict[str, Any] = json.loads(json.dumps(dict(self.config), sort_keys=True))
        object.__setattr__(self, "config", MappingProxyType(frozen))

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object."""
        return {"technique": self.technique, "version": self.version, "config": dict(self.config)}

    def __reduce__(self) -> tuple[type[Step], tuple[str, dict[str, Any], int]]:
        return Step, (self.technique, dict(self.config), self.version)


@dataclass(frozen=True)
class Recipe:
    """Steps in the order in which they are applied; the empty recipe is the original."""

    steps: tuple[Step, ...] = ()

    def to_json(self) -> str:
        """Canonical text: equal recipes give equal texts."""
        return json.dumps({"type": "recipe", "version": 1, "steps": [s.to_json() for s in self.steps]}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Read a recipe.

        Raises:
            ConfigError: the text is no recipe of a known version.
        """
        try:
            data = json.loads(text)
            if data["type"] != "recipe" or data["version"] != 1:
                raise ConfigError(f"recipe: unknown type or version {data.get('type')!r} {data.get('version')!r}")
            if len(data["steps"]) > MAX_STEPS:
                raise ConfigError(f"recipe: {len(data['steps'])} steps, at most {MAX_STEPS}")
            return Recipe(tuple(Step(s["technique"], s["config"], int(s["version"])) for s in data["steps"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise ConfigError(f"recipe: not a recipe ({error!r:.200})") from error

    @property
    def digest(self) -> str:
        """sha256 of the canonical text, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def flat(self) -> dict[str, str]:
        """Flat parameters for a tracker: ``structured_pruning.ratios.stage1`` -> ``0.25``, wherever its step stands, so that one
        thing is one column. ``steps`` has the order; a technique that comes again is ``structured_pruning#2``.
        """
        flat: dict[str, str] = {}

        def walk(prefix: str, value: Any) -> None:
            if isinstance(value, Mapping):
                for key in sorted(value):
                    walk(f"{prefix}.{key}", value[key])
            else:
                flat[prefix] = json.dumps(value) if isinstance(value, list) else str(value)

        names: list[str] = []
        for step in self.steps:
            again = names.count(step.technique)
            names.append(step.technique)
            walk(f"{step.technique}#{again + 1}" if again else step.technique, step.config)
        return {"steps": ", ".join(names) or "original", **flat}
