"""Resize and Upsample, and what is quantised."""

from __future__ import annotations

import numpy as np

from tests.techniques.onnx_cases.models import RNG, Case, f32, i64, node, one, rand

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
