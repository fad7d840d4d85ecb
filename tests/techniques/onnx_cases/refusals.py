"""Models that are refused, with what is said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from tests.techniques.onnx_cases.models import Case, f32, i64, node, one, rand


@dataclass(frozen=True)
class Refusal:
    case: Case
    said: str


HUGE = i64(1, 2**20, 2**20, 1)
REFUSALS = [
    Refusal(one("Unique", outputs="y"), "Unique is not supported"),
    Refusal(one("GatherND", {"i": i64(0).reshape(1, 1)}, name="image_by_index", batch=1), "GatherND.*holds the batch"),
    Refusal(
        Case("images_mixed", (node("Reshape", "x s", "t"), node("Softmax", "t", "y", axis=0)), {"s": i64(1, 168)}, batch=1),
        "the network mixes images",
    ),
    Refusal(one("TopK", {"k": i64(9)}, axis=1, outputs="y i"), "TopK"),
    Refusal(one("Hardmax"), "Hardmax is not supported"),
    Refusal(one("QLinearConv"), "QDQ"),
    Refusal(Case("float16", (node("Conv", "x w"),), {"w": rand(3, 4, 1, 1).astype(np.float16)}), "float16.*convert the model"),
    Refusal(one("Cast", to=TensorProto.FLOAT16, name="cast_float16"), "float32"),
    Refusal(Case("huge_constant", (node("ConstantOfShape", "s", "c"), node("Add", "x c")), {"s": HUGE}), "elements"),
    Refusal(Case("huge_expand", (node("Expand", "c s", "e"), node("Add", "x e")), {"s": HUGE, "c": rand(1)}), "elements"),
    Refusal(Case("huge_tile", (node("Tile", "c s", "e"), node("Add", "x e")), {"s": HUGE, "c": rand(1, 1, 1, 1)}), "elements"),
    Refusal(
        Case("endless_range", (node("Range", "a b c", "r"), node("Mul", "x r")), {"a": f32(0), "b": f32(1e30), "c": f32(1)}),
        "elements",
    ),
    Refusal(Case("huge_sum", (node("Add", "a b", "c"), node("Add", "x c")), {"a": rand(2**14, 1), "b": rand(2**14)}), "elements"),
    Refusal(one("Expand", {"s": HUGE}, name="huge_expanded_image", shape=(1, 1, 1)), "elements"),
    Refusal(one("Resize", {"s": np.array([1, 1, 1e9, 1e9], np.float32)}, inputs="x - s", name="huge_resize"), "scale of"),
    Refusal(one("Resize", {"s": i64(1, 4, 2**40, 2)}, inputs="x - - s", name="huge_sizes", batch=1), "heights and widths up to"),
    Refusal(one("AveragePool", kernel_shape=[2**31, 2**31], pads=[0, 0, 1, 1], name="huge_kernel"), "AveragePool"),
    Refusal(
        one("Resize", {"s": i64(4, 3)}, inputs="x - - s", axes=[2, 3], mode="linear", antialias=1, opset=18, name="antialias"),
        "antialias",
    ),
    Refusal(one("LRN", size=2**40, name="huge_window"), "1 to 64"),
]
