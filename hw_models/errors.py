"""The error root of this layer, and its few leaves."""

from __future__ import annotations


class HardwareModelError(Exception):
    """Root of everything that this layer raises on purpose."""


class TargetError(HardwareModelError):
    """There is no such target, or its description contradicts itself; the message names the known ones or the field."""


class CalibrationError(HardwareModelError):
    """Too little could be measured to fit a predictor; the message says what to raise."""


class PredictorFormatError(HardwareModelError):
    """A stored predictor is none of a known version."""
