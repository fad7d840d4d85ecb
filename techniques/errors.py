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
