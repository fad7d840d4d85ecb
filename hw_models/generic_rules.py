"""Kernels of a runtime whose rules are not known, for targets that are priced from a data sheet: what every compiler does.

A batch norm, a sum and an activation are computed with the layer before them where nothing else reads the value between; quantisers
are part of the kernels that write; views cost nothing; tensors are where their readers want them. No layouts of ONNX Runtime's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from math import prod

from hw_models.graph import Operator, OperatorGraph
from hw_models.kernels import Kernel, geometry_of
from hw_models.layout import kernel_kind
from hw_models.targets import Precision, Target

_COMPUTE = frozenset({"conv", "conv1d", "conv_transpose", "linear", "matmul"})
_FOLLOWS = frozenset({"batch_norm", "add", "relu", "clip", "sigmoid", "hard_sigmoid", "hard_swish", "silu", "gelu", "tanh"})
_VIEWS = frozenset({"identity", "reshape", "quantize", "dequantize"})


def generic_kernels(graph: OperatorGraph, target: Target) -> tuple[Kernel, ...]:
    """One kernel per layer and per operation that cannot be computed with one; operators that cost nothing give none.

    Worked example: of ``relu(bn2(conv2(relu(bn1(conv1(x))))) + x)`` two kernels are left, the second with the sum in it.
    """
    values = _Values(graph)
    made_in: dict[str, int] = {}  # value -> the kernel that writes it
    kernels: list[Kernel] = []
    for op in graph.operators:
        if op.kind in _VIEWS:
            continue
        reads = [values.of(name) for name in op.inputs]
        joined = [n for n in reads if values.readers[n] == 1 and n in made_in and kernels[made_in[n]].weight_bytes]
        if op.kind in _FOLLOWS and joined:
            index = max(made_in[name] for name in joined)
            others = [s for n, s in zip(reads, op.input_shapes, strict=False) if made_in.get(n) != index]
            kernels[index] = _with(kernels[index], op, others)
        else:
            index = len(kernels)
            kernels.append(_kernel(op, "int8" if _on_integers(op, reads, values.integer) else "fp32", target))
        made_in[op.name] = index
        if kernels[index].precision == "int8":
            values.integer.add(op.name)
    return tuple(kernels)


class _Values:
    """Values without the views and quantisers between them: who reads them, and which are integers."""

    def __init__(self, graph: OperatorGraph) -> None:
        self._source: dict[str, str] = {}
        self.readers: Counter[str] = Counter()
        self.integer: set[str] = set()
        for op in graph.operators:
            if op.kind in _VIEWS and op.inputs:
                self._source[op.name] = self.of(op.inputs[0])
                self.integer |= {self._source[op.name]} if op.kind == "quantize" else set()
            else:
                self.readers.update({self.of(name) for name in op.inputs})

    def of(self, name: str) -> str:
        """What a view or quantiser is of; the value itself otherwise."""
        return self._source.get(name, name)


def _on_integers(op: Operator, reads: Sequence[str], integer: Collection[str]) -> bool:
    if op.kind in _COMPUTE and op.weight_shape:
        return op.weight_bits <= 8 and op.activation_bits <= 8
    return bool(reads) and all(name in integer for name in reads)


def _kernel(op: Operator, precision: Precision, target: Target) -> Kernel:
    size = 1 if precision == "int8" else 4
    weights = prod(op.weight_shape) if op.kind in _COMPUTE and op.weight_shape else 0
    return Kernel(
        name=op.name,
        kind=kernel_kind(op, precision, target),
        precision=precision,
        operators=(op.name,),
        macs=op.macs(),
        bytes_in=size * sum(prod(shape) for shape in op.input_shapes),
        bytes_out=size * prod(op.output_shape),
        weight_bytes=size * weights,
        geometry=geometry_of(op.output_shape, op, len(op.input_shapes)),
    )


def _with(kernel: Kernel, op: Operator, others: list[tuple[int, ...]]) -> Kernel:
    """A kernel that computes one more operator; ``others`` are the shapes of what it reads beside."""
    size = 1 if kernel.precision == "int8" else 4
    more = size * sum(prod(shape) for shape in others) if op.kind == "add" else 0
    changes = {"operators": (*kernel.operators, op.name), "bytes_in": kernel.bytes_in + more}
    return Kernel(**{**kernel.__dict__, **changes})
