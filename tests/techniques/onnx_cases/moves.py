"""Operators that move values, and files whose batch is free, fixed, or part of a size."""

from __future__ import annotations

import numpy as np

from tests.techniques.onnx_cases.models import Case, f32, i64, node, one, rand

SHAPE = (node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Unsqueeze", "n axes", "n1"))
SHAPED = {"zero": np.array(0, dtype=np.int64), "axes": i64(0)}
MOVED = [
    one("Split", opset=11, axis=1, outputs="y other", name="split_equal_11"),
    one("Split", opset=18, axis=1, num_outputs=3, outputs="other another y", shape=(5, 4, 4), name="split_uneven_18"),
    one("Split", {"s": i64(1, 3)}, axis=1, outputs="other y", name="split_sizes"),
    Case("expand_per_image", (node("ReduceMean", "x", "m", axes=[2, 3]), node("Expand", "m s")), {"s": i64(1, 1, 7, 6)}),
    Case("expand_to_shape", (node("ReduceMean", "x", "m", axes=[2, 3]), node("Shape", "x", "s"), node("Expand", "m s"))),
    Case(
        "class_token",
        (
            node("Reshape", "x t", "r"),
            *SHAPE,
            node("Concat", "n1 rest", "e", axis=0),
            node("Expand", "token e", "k"),
            node("Concat", "k r", "y", axis=1),
        ),
        {**SHAPED, "t": i64(0, 4, -1), "rest": i64(1, 42), "token": rand(1, 1, 42)},
    ),
    Case(
        "constant_of_batch",
        (*SHAPE, node("Concat", "n1 rest", "e", axis=0), node("ConstantOfShape", "e", "k"), node("Concat", "k x", "y", axis=1)),
        {**SHAPED, "rest": i64(1, 7, 6)},
    ),
    one("Tile", {"r": i64(1, 2, 1, 3)}),
    Case("flatten_2", (node("Flatten", "x", "f", axis=2), node("Reshape", "f s")), {"s": i64(-1, 4, 42)}),
    Case("flatten_last", (node("Flatten", "x", "f", axis=-1), node("Reshape", "f s")), {"s": i64(-1, 4, 7, 6)}),
    Case(
        "range_of_constants",
        (node("Range", "a b c", "r"), node("Cast", "r", "f", to=1), node("Mul", "x f")),
        {"a": np.array(0, np.int64), "b": np.array(6, np.int64), "c": np.array(1, np.int64)},
    ),
    Case("shape_chain", (*SHAPE, node("Concat", "n1 minus", "t", axis=0), node("Reshape", "x t")), {**SHAPED, "minus": i64(-1)}),
    Case(
        "batch_times_groups",
        (
            *SHAPE,
            node("Mul", "n1 two", "m"),
            node("Concat", "m rest", "t", axis=0),
            node("Reshape", "x t", "r"),
            node("ReduceMean", "r", "q", axes=[1], keepdims=0),
            node("Concat", "n1 back", "u", axis=0),
            node("Reshape", "q u"),
        ),
        {**SHAPED, "two": i64(2), "rest": i64(2, 7, 6), "back": i64(2, 7, 6)},
    ),
    Case(
        "fixed_batch_times_groups",
        (node("Reshape", "x t", "r"), node("ReduceMean", "r", "q", axes=[1], keepdims=0), node("Reshape", "q u")),
        {"t": i64(2, 2, 7, 6), "u": i64(1, 2, 7, 6)},
        batch=1,
    ),
    Case("fixed_batch_flat", (node("Reshape", "x t"),), {"t": i64(1, -1)}, batch=1),
    Case("fixed_batch_four", (node("Reshape", "x t"),), {"t": i64(4, 28, -1)}, batch=4),
    Case("fixed_expand", (node("ReduceMean", "x", "m", axes=[2, 3]), node("Expand", "m s")), {"s": i64(4, 4, 7, 6)}, batch=4),
    one("Gather", {"i": i64(2, 0, -1)}, axis=1, name="gather_channels"),
    one("Gather", {"i": np.array([[0, 1], [2, 3]], np.int64)}, axis=1, name="gather_square"),
    one("Gather", {"i": np.array(-1, np.int64)}, axis=3, name="gather_one"),
    one("Slice", {"s": i64(-1), "e": i64(-10), "a": i64(1), "t": i64(-1)}, name="slice_backwards"),
    one("Slice", {"s": i64(1, 0), "e": i64(2**62, -1), "a": i64(2, 3), "t": i64(2, 1)}, name="slice_steps"),
    one("Slice", opset=9, starts=[1, 1], ends=[3, 100], axes=[1, 2], name="slice_9"),
    one("Pad", {"p": i64(0, 0, 1, 2, 0, 0, 3, 0)}, mode="reflect", name="pad_reflect"),
    one("Pad", {"p": i64(0, 0, 1, 2, 0, 0, 3, 0)}, mode="edge", name="pad_edge"),
    one("Pad", {"p": i64(0, 1, 0, -1, 0, 0, 2, 1), "v": f32(0.5)}, name="pad_channels"),
    one("Pad", {"p": i64(1, 2), "a": i64(-1)}, inputs="x p - a", opset=18, name="pad_axes"),
    one("DepthToSpace", blocksize=2, mode="DCR", shape=(12, 3, 2), name="depth_to_space_dcr"),
    one("DepthToSpace", blocksize=2, mode="CRD", shape=(12, 3, 2), name="depth_to_space_crd"),
    one("SpaceToDepth", blocksize=2, shape=(3, 6, 4)),
    Case("squeeze_all", (node("ReduceMean", "x", "m", axes=[2, 3]), node("Squeeze", "m"))),
    Case("transposes_cancel", (node("Transpose", "x", "t", perm=[0, 2, 3, 1]), node("Transpose", "t", "y", perm=[0, 3, 1, 2]))),
    Case(
        "shape_slice",
        (node("Shape", "x", "s", start=0, end=1), node("Concat", "s m", "t", axis=0), node("Reshape", "x t")),
        {"m": i64(-1, 6)},
    ),
]
