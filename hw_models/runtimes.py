"""What runtimes make of a graph: those whose rules we know by name, and what every compiler does for all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hw_models.generic_rules import generic_kernels
from hw_models.graph import OperatorGraph
from hw_models.kernels import Kernel, kernels
from hw_models.targets import Target

Rules = Callable[[OperatorGraph, Target], tuple[Kernel, ...]]
"""The kernels that a runtime runs for a graph on a target, in execution order."""
_RULES: dict[str, Rules] = {"onnxruntime": kernels}
RULES: Mapping[str, Rules] = _RULES


def add_rules(runtime: str, rules: Rules) -> None:
    """The rules of one more runtime.

    Raises:
        ValueError: the name is taken.
    """
    if runtime in _RULES:
        raise ValueError(f"the rules of runtime {runtime!r} are there already")
    _RULES[runtime] = rules


def kernels_on(graph: OperatorGraph, target: Target) -> tuple[Kernel, ...]:
    """The kernels of a graph by the rules of the target's runtime."""
    return RULES.get(target.runtime, generic_kernels)(graph, target)
