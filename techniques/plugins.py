"""What installed packages bring to a registry by entry points. No torch: metrics and audits, which the server loads, use it too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any


def register_installed(group: str, register: Callable[[Any], None], what: str, log: logging.Logger) -> None:
    """Register an instance of each class that an entry point of the group names, in the order of the entry points' names.

    What cannot be loaded or registered is named in the log and left out.

    Args:
        what: the word for one of them, for the log.
    """
    for found in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            register(found.load()())
        except Exception:  # whatever somebody else's package raises, ours go on
            log.exception("the %s %s of %s could not be loaded and is left out", what, found.name, found.value)
