"""The kernels of a network exactly as the runtime ran them, from its own profile: the truth that the rules are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from hw_models.fusion import FusedOperator
from hw_models.graph import Operator, OperatorGraph
from hw_models.kernels import Kernel, TimedKernel, conversion, kernel_of, with_coldness
from hw_models.layout import kernel_kind, runs_directly
from hw_models.targets import Precision, Target
from paretopress.runtime.kit.profile import NodeTime

_MANY_INPUTS = frozenset({"add", "elementwise", "concat"})
_CONVERSIONS = {
    "ReorderInput": "reorder", "ReorderOutput": "reorder", "DequantizeLinear": "dequantize", "QuantizeLinear": "quantize",
}  # fmt: skip
_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "NhwcFusedConv", "QLinearConv"})
_LINEARS = frozenset({"Gemm", "FusedGemm", "MatMul", "QGemm", "QLinearMatMul", "FusedMatMul"})
_KINDS = {
    "Add": "add", "QLinearAdd": "add",
    "Mul": "elementwise", "QLinearMul": "elementwise", "Relu": "elementwise", "Clip": "elementwise", "Sub": "elementwise",
    "Div": "elementwise", "BatchNormalization": "elementwise",
    "Sigmoid": "sigmoid", "QLinearSigmoid": "sigmoid", "HardSigmoid": "hard_sigmoid", "Tanh": "tanh", "Softmax": "softmax",
    "Gelu": "gelu", "QuickGelu": "silu",
    "MaxPool": "max_pool", "NhwcMaxPool": "max_pool", "AveragePool": "avg_pool", "QLinearAveragePool": "avg_pool",
    "GlobalAveragePool": "global_pool", "QLinearGlobalAveragePool": "global_pool", "ReduceMean": "global_pool",
    "Concat": "concat", "QLinearConcat": "concat", "Transpose": "transpose", "Split": "split", "Slice": "slice",
    "Gather": "slice", "Pad": "pad",
    "Reshape": "reshape", "Flatten": "reshape", "Squeeze": "reshape", "Unsqueeze": "reshape",
    "LayerNormalization": "layer_norm", "Resize": "resize", "Upsample": "resize",
}  # fmt: skip


def kernels_as_run(graph: OperatorGraph, nodes: Sequence[NodeTime], target: Target) -> list[TimedKernel]:
    """One kernel per profiled node, in execution order.

    Args:
        graph: the operators, named as the nodes of the file that was profiled.
    """
    operators = {op.name: op for op in graph.operators}
    run = with_coldness([_kernel(node, operators, target) for node in nodes], target)
    return [TimedKernel(kernel, node.us) for kernel, node in zip(run, nodes, strict=True)]


def _kernel(node: NodeTime, operators: Mapping[str, Operator], target: Target) -> Kernel:
    shape = node.output_shapes[0] if node.output_shapes else ()
    integer = node.op_type.startswith("QLinear") or node.input_types[:1] in (("uint8",), ("int8",))
    precision: Precision = "int8" if integer else "fp32"
    if node.op_type in _CONVOLUTIONS:
        layer = _layer(node.name, operators)
        if layer is not None:
            return _convolution(node, layer, precision, target)
    if node.op_type in _CONVERSIONS:
        kind = _CONVERSIONS[node.op_type]
        source = node.input_shapes[0]
        if node.op_type == "ReorderInput":
            source = shape
        return conversion(kind, node.name, "int8" if "quantize" in kind else "fp32", source)
    if node.op_type == "Transpose" and node.name == node.op_type:
        # The runtime's own: channels first to last or back.
        return conversion("transpose", node.name, precision, shape)
    op = operators.get(node.name)
    if node.op_type in _LINEARS:
        layer = op if op is None or op.kind == "linear" else operators.get(op.inputs[0])
        if layer is not None and layer.kind == "linear":
            fused = _fused(layer, "linear", precision, "plain", [("x", node.input_shapes[0])], shape)
            fused.operators += ["quantize"] if node.output_types[:1] != ("float",) else []
            return kernel_of(fused, target)
    kind = _KINDS.get(node.op_type, f"other:{node.op_type}")
    if node.op_type == "Split":
        shape = node.input_shapes[0]
    if node.op_type == "Transpose" and len(shape) > 4:
        turned = node.input_shapes[0][-2:] != shape[-2:]
        kind, shape = "shuffle_turned" if turned else "shuffle", (shape[0], shape[1] * shape[2], *shape[3:])
    if op is None or op.kind in ("conv", "linear"):
        op = Operator(node.name, kind, ("x",), (node.input_shapes[0] if node.input_shapes else shape,), shape)
    values = zip(node.input_shapes, node.input_types, strict=False)
    tensors = [s for s, t in values if prod(s) > 1 and t in ("float", "uint8", "int8")]
    reads = [(f"x{i}", s) for i, s in enumerate(tensors if kind in _MANY_INPUTS else tensors[:1])]
    layout = "blocked" if node.blocked else "plain"
    return kernel_of(_fused(op, kind, precision, layout, reads, shape), target)


def _convolution(node: NodeTime, layer: Operator, precision: Precision, target: Target) -> Kernel:
    kind = kernel_kind(layer, precision, target)
    layout = "blocked" if node.blocked else "direct" if precision == "int8" and runs_directly(layer, kind) else "plain"
    reads = [("x", layer.input_shapes[0])]
    fused = _fused(layer, kind, precision, layout, reads, layer.output_shape)
    if node.op_type != "QLinearConv" and len(node.input_shapes) > 3:
        fused.added = [("added", layer.output_shape)]
    return kernel_of(fused, target)


def _fused(
    op: Operator, kind: str, precision: Precision, layout: str, reads: list[tuple[str, tuple[int, ...]]], shape: tuple[int, ...]
) -> FusedOperator:
    return FusedOperator(op, [op.name], reads, op.name, shape, precision, kind=kind, layout=layout)  # type: ignore[arg-type]


def _layer(name: str, operators: Mapping[str, Operator]) -> Operator | None:
    """The convolution that a node computes; the optimiser may name the node after what it fused into it."""
    op = operators.get(name)
    while op is not None and op.kind != "conv":
        sources = [operators[i] for i in op.inputs if i in operators]
        op = next((s for s in sources if s.kind == "conv"), sources[0] if sources else None)
    return op
