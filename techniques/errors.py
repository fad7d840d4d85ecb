"""The error root of this layer, and its few leaves."""

from __future__ import annotations


class TechniqueError(Exception):
    """Root of everything that this layer raises on purpose."""


class UnsupportedNetworkError(TechniqueError):
    """The network cannot be lifted or exported; the message names the op and its place in the graph."""


class ConfigError(TechniqueError):
    """A technique's configuration does not fit the network or itself; the message names the field."""


class DataRequiredError(TechniqueError):
    """The technique needs images (calibration or training) and the context carries none."""


class InterruptedTrainingError(TechniqueError):
    """Training stopped because ``TechniqueContext.interrupt`` asked for it; finished rungs are in the checkpoint."""


class UnsafeModelError(TechniqueError):
    """An uploaded file holds something that could run, or is larger than allowed; the message names the entry."""


FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What torch, a library or our own rules raise on a network that they do not understand; `TechniqueError` is raised on purpose."""
