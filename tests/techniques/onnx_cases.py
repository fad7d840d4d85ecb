"""Tiny ONNX models around one operator or a few, those that are read and those that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def rand(*shape: int) -> Array:
    return (RNG.standard_normal(shape) * 0.5).astype(np.float32)


def i64(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def f32(value: float) -> Array:
    return np.array(value, dtype=np.float32)


def node(op_type: str, inputs: str = "x", outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """Names of inputs and outputs are separated by blanks; ``-`` is an input that is left out."""
    names = [name.replace("-", "") for name in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), **attributes)


@dataclass(frozen=True)
class Case:
    """Nodes from ``x`` (the image) to ``y``; where ``y`` is no 4-d tensor of the right batch, the nodes see to it."""

    name: str
    nodes: tuple[onnx.NodeProto, ...]
    weights: Mapping[str, Array] = field(default_factory=dict)
    shape: tuple[int, int, int] = (4, 7, 6)
    opset: int = 17
    batch: int | str = "N"
    tolerance: float = 1e-5

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            list(self.nodes),
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, *self.shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def one(op_type: str, weights: Mapping[str, Array] | None = None, *, name: str = "", **more: Any) -> Case:
    """One node whose inputs are ``x`` and the weights, in order."""
    case = {key: more.pop(key) for key in ("shape", "opset", "batch", "tolerance") if key in more}
    weights = weights or {}
    inputs = more.pop("inputs", " ".join(["x", *weights]))
    return Case(name or op_type, (node(op_type, inputs, **more),), weights, **case)


POSITIVE = node("Abs", "x", "p")


def behind_abs(op_type: str) -> Case:
    return Case(op_type, (POSITIVE, node("Add", "p one", "q"), node(op_type, "q")), {"one": f32(0.1)})


UNARY = [
    "Relu",
    "Sigmoid",
    "Tanh",
    "HardSwish",
    "Erf",
    "Exp",
    "Abs",
    "Neg",
    "Softplus",
    "Mish",
    "Selu",
    "Sign",
    "Round",
    "Floor",
    "Ceil",
    "Sin",
    "Cos",
    "Softsign",
    "Identity",
]
ARITHMETIC = [
    *(one(op, opset=18) for op in UNARY),
    *(behind_abs(op) for op in ("Sqrt", "Log", "Reciprocal")),
    one("Pow", {"e": f32(2.0)}, name="pow_scalar"),
    one("Pow", {"e": f32(3.0).reshape(1)}, name="pow_one_entry"),
    Case("pow_of_two_values", (POSITIVE, node("Add", "p one", "q"), node("Pow", "q x")), {"one": f32(0.1)}),
    one("Pow", {"b": f32(2.0)}, inputs="b x", name="pow_constant_base"),
    Case("sum_of_three", (node("Relu", "x", "r"), node("Sum", "x r c")), {"c": rand(4, 1, 1)}),
    Case("max_of_three", (node("Neg", "x", "n"), node("Max", "x n c")), {"c": rand(4, 1, 1)}),
    Case("min_with_numbers", (node("Min", "x a b"),), {"a": f32(0.3), "b": f32(0.1)}),
    one("Max", {"c": f32(0.2)}, inputs="c x", name="max_number_first"),
    one("Sum", inputs="x", name="sum_of_one"),
    Case("mean_of_three", (node("Relu", "x", "r"), node("Mean", "x r c")), {"c": rand(1, 4, 1, 1)}),
    one("Sub", {"c": f32(1.0)}, inputs="c x", name="number_minus"),
    one("Sub", {"c": rand(4, 1, 1)}, name="minus_per_channel"),
    Case("number_over", (POSITIVE, node("Add", "p c", "q"), node("Div", "c q")), {"c": f32(2.0)}),
    one("Mul", {"c": rand(1, 1, 7, 6)}, name="times_map"),
    one("Add", {"c": rand(6)}, name="plus_last_axis"),
    one("Clip", name="clip_without_bounds"),
    one("Clip", {"low": f32(-0.2)}, name="clip_low"),
    one("Clip", {"high": f32(0.2)}, inputs="x - high", name="clip_high"),
    one("Clip", opset=9, min=-0.1, name="clip_low_attribute"),
    one("Clip", opset=9, max=6.0, min=0.0, name="clip_attributes"),
    one("LeakyRelu", alpha=0.3),
    one("Elu", alpha=0.7),
    one("Celu", alpha=0.7),
    one("Selu", alpha=1.5, gamma=1.2, name="selu_other_factors"),
    one("ThresholdedRelu", alpha=0.2),
    one("HardSigmoid", alpha=0.3, beta=0.4),
    one("PRelu", {"s": rand(4, 1, 1)}, name="prelu_channels"),
    one("PRelu", {"s": rand(1)}, name="prelu_one"),
    one("PRelu", {"s": rand(4)}, name="prelu_last_axis_of_as_many", shape=(4, 5, 4)),
    one("Gelu", opset=20),
    one("Gelu", opset=20, approximate="tanh", name="gelu_tanh"),
    one("Softmax", opset=11, name="softmax_11"),
    one("Softmax", opset=11, axis=2, name="softmax_11_axis_2"),
    one("LogSoftmax", opset=9, axis=1, name="log_softmax_9"),
    one("Softmax", opset=13, axis=1, name="softmax_13_channels"),
    one("Dropout", opset=9, ratio=0.4, name="dropout_9"),
    one("Dropout", {"r": f32(0.4)}, opset=13, name="dropout_13"),
]
COMPARED = [
    Case(f"{op}_{side}", (node(op, "x c" if side == "value" else "c x", "m"), node("Where", "m x c")), {"c": f32(0.1)}, opset=16)
    for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual")
    for side in ("value", "number")
]
LOGIC = [
    Case("equal", (node("Round", "x", "r"), node("Equal", "r c", "m"), node("Where", "m c x")), {"c": f32(1.0)}),
    Case(
        "not_and_or",
        (
            node("Greater", "x a", "m"),
            node("Less", "x b", "n"),
            node("Not", "m", "o"),
            node("And", "n o", "p"),
            node("Or", "p m", "q"),
            node("Where", "q x b"),
        ),
        {"a": f32(0.3), "b": f32(-0.2)},
    ),
    Case("where_two_values", (node("Neg", "x", "n"), node("Greater", "x a", "m"), node("Where", "m x n")), {"a": f32(0.3)}),
    Case("where_two_numbers", (node("Greater", "x a", "m"), node("Where", "m a b")), {"a": f32(0.3), "b": f32(-0.2)}),
    Case("where_mask_constant", (node("Where", "m x n"),), {"m": RNG.random((4, 1, 6)) > 0.5, "n": f32(0.0)}),
    Case("cast_mask", (node("Greater", "x a", "m"), node("Cast", "m", "f", to=1), node("Mul", "x f")), {"a": f32(0.3)}),
    Case(
        "xor",
        (node("Greater", "x a", "m"), node("Less", "x b", "n"), node("Xor", "m n", "o"), node("Where", "o x a")),
        {"a": f32(0.3), "b": f32(0.5)},
    ),
]
REDUCED = [
    *(
        one(f"Reduce{kind}", axes=[2, 3], keepdims=keep, name=f"reduce_{kind}_{keep}")
        for kind in ("Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp", "Prod")
        for keep in (0, 1)
    ),
    one("ReduceSum", {"axes": i64(-1)}, name="reduce_sum_input"),
    one("ReduceMean", {"axes": i64(2, 3)}, opset=18, name="reduce_mean_18"),
    one("ReduceL2", {"axes": i64(1)}, opset=18, name="reduce_l2_18"),
    one("ReduceSum", {"axes": i64()}, noop_with_empty_axes=1, name="reduce_nothing"),
    one("GlobalAveragePool"),
    one("GlobalMaxPool"),
    one("GlobalLpPool", p=2),
    one("LpNormalization", axis=1, p=2),
    one("LpNormalization", axis=1, p=1, name="lp_normalization_1"),
]
POOLED = [
    one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", name="max_same_upper"),
    one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER", name="max_same_lower"),
    one("MaxPool", kernel_shape=[3, 2], strides=[2, 1], pads=[0, 0, 1, 1], ceil_mode=1, name="max_uneven_ceil"),
    one("MaxPool", kernel_shape=[2, 2], dilations=[2, 2], name="max_dilated"),
    one("MaxPool", kernel_shape=[3, 3], pads=[2, 2, 2, 2], name="max_wide_pads"),
    *(
        one(
            "AveragePool",
            kernel_shape=[3, 3],
            strides=[2, 2],
            auto_pad=mode,
            count_include_pad=counted,
            opset=opset,
            name=f"average_{mode}_{counted}_{opset}",
        )
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for counted in (0, 1)
        for opset in (11, 19)
    ),
    one("AveragePool", kernel_shape=[2, 3], pads=[0, 1, 1, 0], name="average_uneven"),
    one("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1, name="average_uneven_counted"),
    one("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, opset=19, name="average_ceil"),
    one(
        "AveragePool",
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
        opset=19,
        shape=(4, 8, 8),
        name="average_ceil_padded",
    ),
    one("LpPool", kernel_shape=[2, 2], strides=[2, 2], p=2, name="lp_pool"),
    one("LpPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], p=3, name="lp_pool_3"),
]
LINES = (node("Reshape", "x s", "l"), node("Squeeze", "z a", "y"))
CONVOLVED = [
    one("Conv", {"w": rand(6, 2, 3, 3), "b": rand(6)}, group=2, auto_pad="SAME_LOWER", strides=[2, 2], name="conv_same_lower"),
    one("Conv", {"w": rand(6, 4, 3, 3)}, dilations=[2, 2], pads=[2, 1, 2, 3], name="conv_dilated_uneven"),
    Case(
        "conv_1d",
        (node("Reshape", "x s", "l"), node("Conv", "l w b", "y", pads=[2, 1])),
        {"s": i64(0, 4, -1), "w": rand(5, 4, 3), "b": rand(5)},
    ),
    Case(
        "pools_1d",
        (
            node("Reshape", "x s", "l"),
            node("MaxPool", "l", "m", kernel_shape=[3], strides=[2]),
            node("AveragePool", "m", "y", kernel_shape=[2]),
        ),
        {"s": i64(0, 4, -1)},
    ),
    Case(
        "batch_norm_1d",
        (node("Reshape", "x s", "l"), node("BatchNormalization", "l g b m v", "y")),
        {"s": i64(0, 4, -1), "g": rand(4), "b": rand(4), "m": rand(4), "v": np.abs(rand(4)) + 0.5},
    ),
    Case(
        "batch_norm_2d",
        (node("Flatten", "x", "l"), node("BatchNormalization", "l g b m v", "y")),
        {"g": rand(168), "b": rand(168), "m": rand(168), "v": np.abs(rand(168)) + 0.5},
    ),
    one("ConvTranspose", {"w": rand(4, 3, 3, 3), "b": rand(3)}, strides=[2, 2], name="transposed"),
    one(
        "ConvTranspose",
        {"w": rand(4, 3, 3, 3)},
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        output_padding=[1, 1],
        group=2,
        name="transposed_groups",
    ),
    one("ConvTranspose", {"w": rand(4, 3, 3, 3)}, strides=[2, 2], pads=[0, 1, 1, 2], name="transposed_uneven"),
    one(
        "ConvTranspose",
        {"w": rand(4, 3, 3, 3)},
        strides=[2, 2],
        pads=[0, 0, 1, 1],
        output_padding=[1, 1],
        name="transposed_uneven_more",
    ),
    one(
        "ConvTranspose", {"w": rand(4, 3, 3, 2), "b": rand(3)}, strides=[2, 2], auto_pad="SAME_UPPER", name="transposed_same_upper"
    ),
    one("ConvTranspose", {"w": rand(4, 3, 3, 3)}, strides=[2, 2], auto_pad="SAME_LOWER", name="transposed_same_lower"),
    one("ConvTranspose", {"w": rand(4, 3, 3, 3)}, strides=[2, 2], output_shape=[14, 12], name="transposed_output_shape"),
    one("ConvTranspose", {"w": rand(4, 3, 2, 2)}, dilations=[2, 1], auto_pad="VALID", name="transposed_dilated"),
    one("LRN", size=3, alpha=0.1, beta=0.6, bias=1.5, shape=(6, 4, 4)),
    one("LRN", size=5, shape=(6, 4, 4), name="lrn_usual"),
    one("InstanceNormalization", {"s": rand(4), "b": rand(4)}),
    one("GroupNormalization", {"s": rand(2), "b": rand(2)}, opset=18, num_groups=2, name="group_norm_18"),
    one("GroupNormalization", {"s": rand(4), "b": rand(4)}, opset=21, num_groups=2, name="group_norm_21"),
    one("LayerNormalization", {"s": rand(6), "b": rand(6)}, axis=-1, name="layer_norm"),
]
FLAT = (node("Flatten", "x", "f"),)
PRODUCTS = [
    Case("matmul_constant_left", (node("MatMul", "w x"),), {"w": rand(5, 7)}),
    Case("matmul_stack", (node("MatMul", "x w"),), {"w": rand(4, 6, 3)}),
    Case("matmul_two_values", (node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("MatMul", "x t"))),
    Case(
        "gemm_computed_factor",
        (*FLAT, node("Gemm", "f w", "a"), node("Gemm", "k a", "c", transB=1), node("Transpose", "c", "y", perm=[1, 0])),
        {"w": rand(168, 3), "k": rand(2, 3)},
    ),
    Case(
        "gemm_transposed_first",
        (node("Reshape", "x s", "f"), node("Transpose", "f", "t"), node("Gemm", "t w b", "y", transA=1, beta=0.5)),
        {"s": i64(0, -1), "w": rand(168, 3), "b": rand(1, 3)},
    ),
    Case("gemm_bias_number", (*FLAT, node("Gemm", "f w b", "y", alpha=0.5, transB=1)), {"w": rand(3, 168), "b": f32(0.5)}),
    Case("einsum_mixes_channels", (node("Einsum", "x w", "y", equation="bchw,oc->bohw"),), {"w": rand(3, 4)}),
    Case(
        "shared_dense",
        (node("MatMul", "x w", "a"), node("Add", "a b", "c"), node("MatMul", "c w", "d"), node("Add", "d b", "y")),
        {"w": rand(6, 6), "b": rand(6)},
    ),
    Case(
        "one_weight_two_biases",
        (node("Conv", "x w a", "c"), node("Conv", "c w b", "y")),
        {"w": rand(4, 4, 1, 1), "a": rand(4), "b": rand(4)},
    ),
]
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
RESIZED = [
    *(
        one(
            "Resize",
            {"s": np.array([1, 1, *scales], np.float32)},
            inputs="x - s",
            mode=mode,
            coordinate_transformation_mode=places,
            name=f"{mode}_{places}_{scales[0]}",
            **more,
        )
        for scales in ((2.0, 2.0), (0.5, 1.5), (1.3, 0.6))
        for mode, places, more in (
            ("nearest", "asymmetric", {"nearest_mode": "floor"}),
            ("nearest", "half_pixel", {}),
            ("linear", "half_pixel", {}),
            ("linear", "align_corners", {}),
            ("linear", "asymmetric", {}),
            ("cubic", "half_pixel", {}),
            ("linear", "pytorch_half_pixel", {}),
            ("cubic", "align_corners", {"cubic_coeff_a": -0.5}),
        )
    ),
    *(
        one(
            "Resize",
            {"s": np.array([1, 1, 1.6, 0.7], np.float32)},
            inputs="x - s",
            nearest_mode=rounding,
            name=f"nearest_{rounding}",
        )
        for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    ),
    one("Resize", {"s": i64(1, 4, 9, 5)}, inputs="x - - s", mode="linear", name="resize_sizes", batch=1),
    one("Resize", {"s": i64(10, 9)}, inputs="x - - s", mode="nearest", axes=[2, 3], opset=18, name="resize_axes"),
    one("Resize", {"s": np.array([1, 1, 2, 2], np.float32)}, opset=10, mode="linear", name="resize_10"),
    one("Upsample", {"s": np.array([1, 1, 2, 3], np.float32)}, opset=9, name="upsample_9"),
    one("Upsample", {"s": np.array([1, 1, 2, 2], np.float32)}, opset=9, mode="linear", name="upsample_9_linear"),
]
ROUNDED = [
    Case(
        "fake_quantised",
        (node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")),
        {"s": f32(0.02), "z": np.array(128, np.uint8)},
        tolerance=0.02,
    ),
    Case(
        "weights_by_tensor_unsigned",
        (node("DequantizeLinear", "w s z", "k"), node("Conv", "x k")),
        {"w": RNG.integers(0, 255, (3, 4, 3, 3)).astype(np.uint8), "s": f32(0.02), "z": np.array(128, np.uint8)},
    ),
    Case(
        "weights_with_zero_point",
        (node("DequantizeLinear", "w s z", "k", axis=0), node("Conv", "x k")),
        {"w": RNG.integers(-128, 127, (3, 4, 3, 3)).astype(np.int8), "s": np.abs(rand(3)), "z": np.array([1, 2, 3], np.int8)},
    ),
    Case(
        "weights_of_matmul",
        (node("DequantizeLinear", "w s", "k", axis=1), node("MatMul", "x k")),
        {"w": RNG.integers(-128, 127, (6, 3)).astype(np.int8), "s": np.abs(rand(3))},
    ),
    Case(
        "weights_quantised_in_the_file",
        (node("QuantizeLinear", "w s z", "q", axis=0), node("DequantizeLinear", "q s z", "k", axis=0), node("Conv", "x k")),
        {"w": rand(3, 4, 3, 3), "s": np.abs(rand(3)) * 0.1, "z": np.zeros(3, np.int8)},
    ),
    Case(
        "integer_bias",
        (node("DequantizeLinear", "w s", "k", axis=0), node("DequantizeLinear", "b t", "c", axis=0), node("Conv", "x k c")),
        {
            "w": RNG.integers(-128, 127, (3, 4, 3, 3)).astype(np.int8),
            "s": np.abs(rand(3)),
            "b": np.array([9, -7, 100000], np.int32),
            "t": np.abs(rand(3)) * 1e-4,
        },
    ),
]
CASES = [
    *ARITHMETIC,
    *COMPARED,
    *LOGIC,
    *REDUCED,
    *POOLED,
    *CONVOLVED,
    *PRODUCTS,
    *MOVED,
    *RESIZED,
    *ROUNDED,
]


@dataclass(frozen=True)
class Refusal:
    case: Case
    said: str


HUGE = i64(1, 2**20, 2**20, 1)
REFUSALS = [
    Refusal(one("TopK", {"k": i64(2)}, outputs="y i"), "TopK is not supported"),
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
