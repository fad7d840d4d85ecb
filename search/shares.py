"""How the wall time of a search is shared out among its phases, and what some of them take on any machine."""

from __future__ import annotations

SENSITIVITY_SHARE = 0.1
GRACE_SHARE = 0.05
"""How long after the last promotion a trial that trains may go on before it is interrupted."""
LAST_TIME_SHARE, ONLY_LAST_SHARE = 0.35, 0.6
"""Of the time of all training, the last rung's, where the time is what bounds it; and where nothing is trained before it."""
BUILD_S, RAY_START_S, LIBRARIES_S = 1.0, 20.0, 12.0
"""Seconds to build a candidate, to start the runtime of the trials, and to read the libraries of a search."""


def last_share(trains_before: bool) -> float:
    """Of the time of all training, the last rung's.

    Args:
        trains_before: whether candidates are trained in the rungs before it.
    """
    return LAST_TIME_SHARE if trains_before else ONLY_LAST_SHARE
