"""Reductions, pools, convolutions, normalisations and products of matrices."""

from __future__ import annotations

import numpy as np

from tests.techniques.onnx_cases.models import Case, f32, i64, node, one, rand

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
