"""Runtimes by name. Adding one: write its file and add it to the tuple below, or install a package that brings it.

A package of your own brings runtimes by an entry point of the group ``paretopress.runtimes`` that names the class. What cannot be
loaded is named in the log and left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from hw_models.runtimes import RULES, add_rules
from hw_models.targets import Target
from search.limit_kinds import KINDS, SIZE_SUFFIX, LimitKind, add_kind
from search.runtimes.base import Artifact, Runtime, measure_on
from search.runtimes.onnx_runtime import OnnxRuntime
from techniques.plugins import register_installed

__all__ = ["RUNTIMES", "Artifact", "Runtime", "measure_on", "register", "runtime_of"]

ENTRY_POINTS = "paretopress.runtimes"
_LOG = logging.getLogger("paretopress.search")
_RUNTIMES: dict[str, Runtime] = {}
RUNTIMES: Mapping[str, Runtime] = _RUNTIMES
_STANDS_IN = OnnxRuntime()


def register(runtime: Runtime) -> None:
    """Add a runtime: its rules price graphs, and the size of its file can be limited.

    Raises:
        ValueError: the name is taken, or the size of its file is called something that is no size in bytes.
    """
    if not runtime.artifact.size_name.endswith(SIZE_SUFFIX):
        raise ValueError(
            f"the size of {runtime.artifact.name!r} must be called ..{SIZE_SUFFIX}, not {runtime.artifact.size_name!r}"
        )
    if runtime.name in _RUNTIMES:
        raise ValueError(f"runtime {runtime.name!r} is registered twice")
    _RUNTIMES[runtime.name] = runtime
    if runtime.name not in RULES:
        add_rules(runtime.name, runtime.kernels)
    if runtime.artifact.size_name not in KINDS:
        add_kind(LimitKind(runtime.artifact.size_name, runtime.artifact.least_size_bytes))


def runtime_of(target: Target) -> Runtime:
    """What runs the files of a target. ONNX Runtime stands in for one that is known from data sheets only."""
    return _RUNTIMES.get(target.runtime, _STANDS_IN)


register(_STANDS_IN)
register_installed(ENTRY_POINTS, register, "runtime", _LOG)
