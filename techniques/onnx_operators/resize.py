"""Resize and Upsample: by torch's own resampling where it computes the same, else by the interpolation matrix of each axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from techniques.onnx_graph import BATCH, Converter, GraphBuilder, UnsupportedOperatorError
from techniques.onnx_operators.arguments import at, aten, ints, shape, text

Matrix = np.ndarray[Any, Any]
_MAX_SIDE = 8192
_EQUAL = 1e-5


@dataclass(frozen=True)
class Rule:
    """How a place of the result is traced back to the input (ONNX, operator Resize).

    Attributes:
        mode: ``nearest``, ``linear`` or ``cubic``.
        coordinates: ``coordinate_transformation_mode``.
        rounding: ``nearest_mode``.
        cubic: ``cubic_coeff_a``.
        excludes_outside: whether weights of places outside are left out and the others scaled up.
    """

    mode: str
    coordinates: str
    rounding: str
    cubic: float
    excludes_outside: bool

    def matrix(self, size: int, outputs: int, scale: float) -> Matrix:
        """``(outputs, size)``: the weight of every input place in every output place."""
        places = self._places(size, outputs, scale)
        result = np.zeros((outputs, size))
        rows = np.arange(outputs)
        if self.mode == "nearest":
            result[rows, np.clip(self._rounded(places), 0, size - 1).astype(np.int64)] = 1
            return result
        if self.mode == "linear":
            places = np.clip(places, 0, size - 1)
        base = np.floor(places)
        offsets = range(2) if self.mode == "linear" else range(-1, 3)
        for offset in offsets:
            at_place = (base + offset).astype(np.int64)
            weight = self._weight(np.abs(places - (base + offset)))
            inside = (at_place >= 0) & (at_place < size)
            weight = np.where(inside | (not self.excludes_outside), weight, 0.0)
            np.add.at(result, (rows, np.clip(at_place, 0, size - 1)), weight)
        return result / result.sum(1, keepdims=True) if self.excludes_outside else result

    def _places(self, size: int, outputs: int, scale: float) -> Matrix:
        """In float32, as runtimes compute it: the nearest place hangs on how ties fall."""
        half, factor, places = np.float32(0.5), np.float32(scale), np.arange(outputs, dtype=np.float32)
        if self.coordinates == "asymmetric":
            places = places / factor
        elif self.coordinates == "align_corners":
            places = places * np.float32(size - 1) / np.float32(max(1, outputs - 1))
        elif self.coordinates == "pytorch_half_pixel" and outputs == 1:
            places = places * 0
        elif self.coordinates in ("half_pixel", "pytorch_half_pixel"):
            places = (places + half) / factor - half
        elif self.coordinates == "half_pixel_symmetric":
            places = np.float32(size / 2 * (1 - outputs / (scale * size))) + (places + half) / factor - half
        else:
            raise UnsupportedOperatorError(f"coordinate_transformation_mode {self.coordinates[:40]!r}")
        return np.asarray(places, dtype=np.float64)

    def _rounded(self, places: Matrix) -> Matrix:
        if self.rounding == "floor":
            return np.floor(places)
        if self.rounding == "ceil":
            return np.ceil(places)
        if self.rounding == "round_prefer_ceil":
            return np.floor(places + 0.5)
        return np.ceil(places - 0.5)

    def _weight(self, distance: Matrix) -> Matrix:
        if self.mode == "linear":
            return np.asarray(np.maximum(0.0, 1 - distance))
        a, d = self.cubic, distance
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        result: Matrix = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
        return result


_ANTIALIASED = {
    Rule("linear", "half_pixel", "floor", -0.75, True): aten._upsample_bilinear2d_aa.vec,
    Rule("cubic", "half_pixel", "floor", -0.5, True): aten._upsample_bicubic2d_aa.vec,
}
"""As our own files have them. Outputs are compared with ONNX Runtime's in the end, as for every file."""


def _resize(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    rule = Rule(
        text(attributes, "mode", "nearest"),
        text(attributes, "coordinate_transformation_mode", "half_pixel" if b.opset >= 11 else "asymmetric"),
        text(attributes, "nearest_mode", "round_prefer_floor") if b.opset >= 11 else "floor",
        float(attributes.get("cubic_coeff_a", -0.75)),
        bool(attributes.get("exclude_outside", 0)),
    )
    sizes = at(inputs, 3) if b.opset >= 11 else None
    scales = at(inputs, 2) if b.opset >= 11 else at(inputs, 1, attributes.get("scales"))
    if sizes is not None and np.size(sizes) == 0:
        sizes = None
    if scales is not None and np.size(scales) == 0:
        scales = None
    antialias = bool(attributes.get("antialias", 0))
    as_torch = not antialias or (sizes is not None and rule in _ANTIALIASED and len(shape(inputs[0])) == 4)
    if text(attributes, "keep_aspect_ratio_policy", "stretch") != "stretch" or not as_torch:
        raise UnsupportedOperatorError("keep_aspect_ratio_policy or antialias, which runtimes compute otherwise than torch")
    if rule.mode not in ("nearest", "linear", "bilinear", "cubic"):
        raise UnsupportedOperatorError(f"mode {rule.mode[:40]!r}")
    outputs, factors = _targets(b, shape(inputs[0]), sizes, scales, attributes)
    if antialias:
        return b.call(_ANTIALIASED[rule], inputs[0], outputs[2:], False, None)
    return _resampled(b, inputs[0], outputs, factors, rule, sizes is not None)


def _upsample(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> fx.Node:
    """As ONNX Runtime runs it: like an asymmetric Resize that rounds down."""
    scales = at(inputs, 1, attributes.get("scales"))
    outputs, factors = _targets(b, shape(inputs[0]), None, scales, {})
    return _resampled(
        b, inputs[0], outputs, factors, Rule(text(attributes, "mode", "nearest"), "asymmetric", "floor", -0.75, False)
    )


def _targets(
    b: GraphBuilder, given: tuple[int, ...], sizes: Any, scales: Any, attributes: dict[str, Any]
) -> tuple[list[int], list[float]]:
    """Size and factor of every axis."""
    axes = [int(a) % len(given) for a in attributes.get("axes", range(len(given)))]
    outputs, factors = list(given), [1.0] * len(given)
    if (sizes is None) == (scales is None) or isinstance(scales, fx.Node):
        raise UnsupportedOperatorError("either sizes or scales, as constants, are supported")
    for position, axis in enumerate(axes):
        if sizes is not None:
            listed = ints(sizes)[position]
            outputs[axis] = BATCH if axis == 0 and listed == b.file_batch else listed
            factors[axis] = outputs[axis] / given[axis]
        else:
            factors[axis] = float(np.asarray(scales).reshape(-1)[position])
            if not math.isfinite(factors[axis]) or not 0 < factors[axis] <= _MAX_SIDE:
                raise UnsupportedOperatorError(f"a scale of {factors[axis]}")
            outputs[axis] = math.floor(given[axis] * factors[axis])
    changed = [axis for axis, size in enumerate(outputs) if size != given[axis]]
    if (
        len(given) not in (3, 4)
        or any(axis < 2 for axis in changed)
        or max([*given[2:], *outputs[2:]]) > _MAX_SIDE
        or min(outputs) < 1
    ):
        raise UnsupportedOperatorError(
            f"from {given[1:]} to {tuple(outputs[1:])}: only heights and widths up to {_MAX_SIDE} change"
        )
    return outputs, factors


def _resampled(b: GraphBuilder, x: fx.Node, outputs: list[int], factors: list[float], rule: Rule, by_size: bool = False) -> fx.Node:
    given = shape(x)
    rule = Rule(rule.mode.removeprefix("bi"), rule.coordinates, rule.rounding, rule.cubic, rule.excludes_outside)
    matrices = {a: rule.matrix(given[a], outputs[a], factors[a]) for a in range(2, len(given))}
    moved = {a: m for a, m in matrices.items() if m.shape[0] != m.shape[1] or not np.allclose(m, np.eye(len(m)), atol=_EQUAL)}
    if not moved:
        return x
    if len(given) == 4:
        for target, arguments in _candidates(outputs[2:], factors[2:], rule.mode, by_size):
            if all(_computes(target, arguments, matrices[a], a) for a in (2, 3)):
                return b.call(target, x, *arguments)
    for axis, matrix in moved.items():
        x = _along(b, x, axis, matrix, rule.mode == "nearest")
    return x


def _candidates(sizes: list[int], factors: list[float], mode: str, by_size: bool) -> list[tuple[Any, tuple[Any, ...]]]:
    """Calls of torch that may compute the same; first those that are told the size, or the factor, as the file is."""
    found: list[tuple[Any, tuple[Any, ...]]] = []
    for size, scale in ((sizes, None), (None, factors)) if by_size else ((None, factors), (sizes, None)):
        if mode == "nearest":
            found += [(aten.upsample_nearest2d.vec, (size, scale)), (aten._upsample_nearest_exact2d.vec, (size, scale))]
        else:
            target = aten.upsample_bilinear2d.vec if mode == "linear" else aten.upsample_bicubic2d.vec
            found += [(target, (size, corners, scale)) for corners in (False, True)]
    return found


def _computes(target: Any, arguments: tuple[Any, ...], matrix: Matrix, axis: int) -> bool:
    """Whether a call of torch resamples this axis as the matrix does: tried on every unit vector."""
    outputs, size = matrix.shape
    units = torch.eye(size)[None, :, :, None] if axis == 2 else torch.eye(size)[None, :, None, :]

    def along(values: Any, other: Any) -> Any:
        if values is None:
            return None
        return [values[0], other] if axis == 2 else [other, values[1]]

    if arguments[0] is not None:
        narrowed = (along(arguments[0], 1), *arguments[1:])
    else:
        narrowed = (None, *arguments[1:-1], along(arguments[-1], 1.0))
    found = target(units, *narrowed)
    found = found[0, :, :, 0] if axis == 2 else found[0, :, 0, :]
    return tuple(found.shape) == (size, outputs) and bool(np.allclose(found.T.numpy(), matrix, atol=_EQUAL))


def _along(b: GraphBuilder, x: fx.Node, axis: int, matrix: Matrix, selects: bool) -> fx.Node:
    if selects:
        return b.call(aten.index_select.default, x, axis, b.fixed(matrix.argmax(1).astype(np.int64)))
    if axis == len(shape(x)) - 1:
        return b.call(aten.matmul.default, x, b.fixed(matrix.T.astype(np.float32)))
    return b.call(aten.matmul.default, b.fixed(matrix.astype(np.float32)), x)


RESIZES: dict[str, Converter] = {"Resize": _resize, "Upsample": _upsample}
