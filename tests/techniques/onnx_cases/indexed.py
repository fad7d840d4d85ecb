"""Single entries by their indices, recurrent layers, and layers of three dimensions."""

from __future__ import annotations

import numpy as np

from tests.techniques.onnx_cases.models import Array, Case, f32, i64, node, one, rand


def indices(*rows: list[int]) -> Array:
    return np.array(rows, np.int64)


TO_FRONT, BACK = node("Transpose", "x", "t", perm=[1, 0, 2, 3]), node("Transpose", "g", "y", perm=[1, 0, 2, 3])
INDEXED = [
    Case("gather_nd_repeats_channels", (TO_FRONT, node("GatherND", "t i", "g"), BACK), {"i": indices([3], [0], [0], [-1])}),
    Case(
        "gather_nd_places",
        (
            node("Transpose", "x", "t", perm=[2, 3, 0, 1]),
            node("GatherND", "t i", "g"),
            node("Transpose", "g", "y", perm=[1, 2, 0]),
        ),
        {"i": indices([0, 0], [6, 5], [6, 5])},
    ),
    Case(
        "scatter_nd",
        (TO_FRONT, node("ScatterND", "t i u", "g"), BACK),
        {"i": indices([2], [-3]), "u": rand(2, 1, 7, 6)},
        batch=1,
    ),
    Case(
        "scatter_nd_adds_twice",
        (TO_FRONT, node("ScatterND", "t i u", "g", reduction="add"), BACK),
        {"i": indices([2], [2]), "u": rand(2, 1, 7, 6)},
        batch=1,
        opset=18,
    ),
    one("GatherElements", {"i": indices([0, -1, 3, 2]).reshape(1, 4, 1, 1)}, axis=1, name="gather_elements", batch=1),
    one(
        "ScatterElements",
        {"i": np.full((1, 1, 7, 6), -2, np.int64), "u": rand(1, 1, 7, 6)},
        axis=1,
        name="scatter_elements",
        batch=1,
    ),
    one("TopK", {"k": i64(2)}, axis=1, outputs="y i", name="top_k"),
    one("TopK", {"k": i64(6)}, largest=0, outputs="y i", name="sorted"),
    Case(
        "entries_of_sorted",
        (node("Neg", "x", "n"), node("TopK", "n k", "v i", axis=1), node("GatherElements", "x i", "y", axis=1)),
        {"k": i64(3)},
    ),
    *(Case(op, (node(op, "x", "i", axis=1), node("Cast", "i", "y", to=1))) for op in ("ArgMax", "ArgMin")),
    Case(
        "embedding",
        (node("ArgMax", "x", "i", axis=1, keepdims=0), node("Gather", "table i", "y", axis=0)),
        {"table": rand(4, 3)},
    ),
    *(
        one(
            "GridSample",
            {"g": rand(1, 5, 3, 2) * 3},
            mode=mode,
            padding_mode=outside,
            align_corners=corners,
            opset=opset,
            batch=1,
            name=f"grid_{mode}_{outside}",
        )
        for mode, outside, corners, opset in (
            ("bilinear", "zeros", 0, 16),
            ("nearest", "border", 0, 20),
            ("cubic", "reflection", 1, 20),
        )
    ),
    one("CumSum", {"a": np.array(2, np.int64)}, name="running_sum"),
    one("Trilu", {"k": np.array(1, np.int64)}, name="upper_triangle"),
    one("Trilu", upper=0, name="lower_triangle"),
]
WRAPPED = [
    one("Pad", {"p": i64(0, 0, 1, 2, 0, 0, 3, 0)}, mode="wrap", opset=19, name="pad_wrap"),
    *(
        Case(
            f"pad_{mode}_1d",
            (node("Reshape", "x s", "l"), node("Pad", "l p", "y", mode=mode)),
            {"s": i64(0, 4, -1), "p": i64(0, 0, 2, 0, 0, 1)},
            opset=19,
        )
        for mode in ("reflect", "edge", "wrap")
    ),
]
DEEP = [
    Case(
        f"{name}_3d",
        (
            node("Unsqueeze", "x a", "d"),
            node(op, " ".join(["d", *weights]), "e", **attributes),
            node("ReduceMean", "e", "y", axes=[2]),
        ),
        {"a": i64(1), **weights},
    )
    for name, op, weights, attributes in (
        ("conv", "Conv", {"w": rand(3, 1, 3, 3, 3), "b": rand(3)}, {"pads": [1, 0, 1, 1, 1, 0]}),
        ("transposed", "ConvTranspose", {"w": rand(1, 3, 2, 2, 2)}, {"strides": [2, 1, 2]}),
        ("max", "MaxPool", {}, {"kernel_shape": [2, 3, 2], "strides": [2, 1, 2]}),
        ("average", "AveragePool", {}, {"kernel_shape": [3, 3, 3], "pads": [1] * 6}),
        ("average_uneven", "AveragePool", {}, {"kernel_shape": [3, 1, 1], "pads": [1, 0, 0, 0, 0, 0]}),
    )
]
SEQUENCE = (node("ReduceMean", "x", "m", axes=[2], keepdims=0), node("Transpose", "m", "s", perm=[2, 0, 1]))
LAST = (node("Transpose", "o", "p", perm=[2, 0, 1, 3]), node("Flatten", "p", "y"))
RECURRENT = [
    Case(
        f"{op.lower()}_{direction}",
        (*SEQUENCE, node(op, inputs, "o", hidden_size=3, direction=direction, **more), *LAST),
        {"w": rand(ways, gates * 3, 4), "r": rand(ways, gates * 3, 3), "b": rand(ways, gates * 6), "h": rand(ways, 1, 3)},
        batch=1,
    )
    for op, gates, inputs, more in (("GRU", 3, "s w r b - h", {"linear_before_reset": 1}), ("LSTM", 4, "s w r b - h h", {}))
    for direction, ways in (("forward", 1), ("bidirectional", 2))
]
BAKED = [
    Case("constant_beside_image", (node("Concat", "x c", "y", axis=1),), {"c": rand(1, 2, 7, 6)}, batch=1),
    Case("constant_before_image", (node("Concat", "c x", "y", axis=1),), {"c": rand(1, 2, 7, 6)}, batch=1),
    Case(
        "batch_in_the_middle",
        (
            node("Reshape", "x s", "l"),
            node("Transpose", "l", "t", perm=[2, 0, 1]),
            node("Reshape", "t heads", "h"),
            node("Transpose", "h", "q", perm=[1, 0, 2]),
            node("Transpose", "h", "k", perm=[1, 2, 0]),
            node("MatMul", "q k", "w"),
            node("MatMul", "w q", "o"),
            node("Transpose", "o", "p", perm=[1, 0, 2]),
            node("Reshape", "p rows", "r"),
            node("MatMul", "r m", "n"),
            node("Reshape", "n back", "u"),
            node("Transpose", "u", "y", perm=[1, 0, 2]),
        ),
        {"s": i64(1, 4, 42), "heads": i64(42, 2, 2), "rows": i64(42, 4), "m": rand(4, 3), "back": i64(42, 1, 3)},
        batch=1,
    ),
    Case(
        "channels_as_depth",
        (
            node("Reshape", "x s", "d"),
            node("AveragePool", "d", "e", kernel_shape=[3, 1, 1], pads=[1, 0, 0, 1, 0, 0], count_include_pad=1),
            node("Squeeze", "e a", "y"),
        ),
        {"s": i64(1, 1, 4, 7, 6), "a": i64(1)},
        batch=1,
    ),
]
ODD = [
    *(one(op, opset=18) for op in ("Tan", "Atan", "Sinh", "Cosh", "Asinh")),
    *(Case(op, (node("Tanh", "x", "t"), node(op, "t")), opset=18) for op in ("Asin", "Acos", "Atanh")),
    Case("Acosh", (node("Exp", "x", "e"), node("Add", "e one", "f"), node("Acosh", "f")), {"one": f32(1.0)}),
    Case("is_nan", (node("Log", "x", "l"), node("IsNaN", "l", "m"), node("Where", "m x c")), {"c": f32(1.0)}),
    Case(
        "is_inf", (node("Relu", "x", "r"), node("Log", "r", "l"), node("IsInf", "l", "m"), node("Where", "m c x")), {"c": f32(1.0)}
    ),
    one("Mod", {"c": f32(0.3)}, fmod=1, name="fmod"),
]
