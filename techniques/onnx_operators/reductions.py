"""Sums, means and extremes along axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from techniques.onnx_graph import Converter, GraphBuilder, UnsupportedOperatorError
from techniques.onnx_operators.arguments import at, aten, axes_of, ints, shape

Before = Callable[[GraphBuilder, fx.Node], fx.Node]


def _as_it_is(b: GraphBuilder, x: fx.Node) -> fx.Node:
    return x


def _square(b: GraphBuilder, x: fx.Node) -> fx.Node:
    return b.call(aten.mul.Tensor, x, x)


def _apply(target: Any) -> Before:
    return lambda b, x: b.call(target, x)


def _reduce(target: Any, before: Before = _as_it_is, behind: Before = _as_it_is) -> Converter:
    """A reduction along several axes, of changed values and with a changed result where it says so."""

    def convert(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
        axes, x, rank = at(inputs, 1, attributes.get("axes")), inputs[0], len(shape(inputs[0]))
        listed = axes_of(axes, rank) if axes is not None else []
        if not listed and attributes.get("noop_with_empty_axes", 0):
            return x
        keep = bool(attributes.get("keepdims", 1))
        return behind(b, b.call(target, before(b, x), listed or list(range(rank)), keep))

    return convert


def _product(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> Any:
    axes, x, rank = at(inputs, 1, attributes.get("axes")), inputs[0], len(shape(inputs[0]))
    listed = axes_of(axes, rank) if axes is not None else []
    if not listed and attributes.get("noop_with_empty_axes", 0):
        return x
    for axis in reversed(listed or range(rank)):
        x = b.call(aten.prod.dim_int, x, axis, bool(attributes.get("keepdims", 1)))
    return x


def _running_sum(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    if attributes.get("exclusive", 0) or attributes.get("reverse", 0):
        raise UnsupportedOperatorError("exclusive or reverse")
    return b.call(aten.cumsum.default, inputs[0], ints(inputs[1])[0])


_SUM = aten.sum.dim_IntList
REDUCTIONS: dict[str, Converter] = {
    "ReduceMean": _reduce(aten.mean.dim), "ReduceSum": _reduce(_SUM), "ReduceMax": _reduce(aten.amax.default),
    "ReduceMin": _reduce(aten.amin.default), "ReduceProd": _product, "ReduceL1": _reduce(_SUM, _apply(aten.abs.default)),
    "ReduceL2": _reduce(_SUM, _square, _apply(aten.sqrt.default)), "ReduceSumSquare": _reduce(_SUM, _square),
    "ReduceLogSum": _reduce(_SUM, behind=_apply(aten.log.default)), "ReduceLogSumExp": _reduce(aten.logsumexp.default),
    "CumSum": _running_sum,
}  # fmt: skip
