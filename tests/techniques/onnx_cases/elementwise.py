"""Arithmetic, comparisons and logic, number by number."""

from __future__ import annotations

from tests.techniques.onnx_cases.models import RNG, Case, f32, node, one, rand

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
