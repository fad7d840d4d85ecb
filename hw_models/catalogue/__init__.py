"""Machines measured at length beforehand, one JSON file each: where a short calibration of another one starts from."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from hw_models.predictor import Predictor

_NEIGHBOURS = {"onnxruntime": "cpu-ort-1t.json"}
"""Runtime to the predictor of its one-thread target on some machine."""


@functools.cache
def neighbour_coefficients_ns(runtime: str) -> Mapping[str, tuple[float, ...]]:
    """One thread's coefficients of a machine with the same runtime, by kernel signature; empty where none was measured."""
    name = _NEIGHBOURS.get(runtime)
    if name is None:
        return {}
    return Predictor.from_json((Path(__file__).parent / name).read_text()).coefficients_ns
