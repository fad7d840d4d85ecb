"""Well-known boards and GPUs, from their data sheets: priced by roofline, never measured, always *uncalibrated*."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from hw_models.errors import TargetError
from hw_models.targets import Target, builtin_targets

_FILE = Path(__file__).parent / "boards.json"


@functools.cache
def datasheet_targets() -> tuple[Target, ...]:
    """The catalogue's targets, by name."""
    listed = json.loads(_FILE.read_text())["targets"]
    targets = [Target.from_json(json.dumps({"type": "target", "version": 1, **entry})) for entry in listed]
    return tuple(sorted(targets, key=lambda target: target.name))


def get_target(name: str) -> Target:
    """The built-in or catalogued target of that name.

    Raises:
        TargetError: there is none; the message lists those there are.
    """
    known = {target.name: target for target in (*builtin_targets(), *datasheet_targets())}
    if name not in known:
        raise TargetError(f"unknown target {name!r}; known are {sorted(known)}")
    return known[name]
