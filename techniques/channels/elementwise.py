"""Operations position by position: what meets goes together."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, fx

from techniques.channels.atoms import ids_of
from techniques.channels.propagation import Adaptor, Propagation, on_meta
from techniques.channels.values import Value
from techniques.network_checks import place

_PICKS = frozenset({"mul", "multiply", "div", "divide", "where", "masked_fill", "__mul__"})
"""Where one side is zero the other does not matter: an operand that always stays is cut to the channels that are left."""
# fmt: off
_KNOWN = frozenset((
    "add", "sub", "rsub", "mul", "div", "multiply", "divide", "true_divide", "maximum", "minimum", "where", "masked_fill",
    "pow", "square", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log", "log1p", "log2", "abs", "neg", "sign", "relu",
    "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "tanh", "elu", "selu", "celu", "leaky_relu",
    "mish", "softplus", "softsign", "threshold", "clamp", "clamp_min", "clamp_max", "clip", "erf", "sin", "cos", "tan",
    "atan", "floor", "ceil", "round", "trunc", "dropout", "feature_dropout", "alpha_dropout", "eq", "ne", "lt", "le", "gt",
    "ge", "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_not", "fmod",
    "remainder", "addcmul", "addcdiv", "lerp", "log_sigmoid", "hardshrink", "softshrink", "nan_to_num", "rrelu_with_noise",
    "prelu_kernel", "copysign", "floor_divide", "isnan", "isfinite", "zeros_like", "ones_like", "full_like", "bernoulli",
    "quantize_per_tensor", "dequantize_per_tensor", "type_as", "logit", "xlogy", "atan2", "hypot", "frac", "sinh", "cosh",
    "asin", "acos", "acosh", "asinh", "atanh", "exp2", "log10", "heaviside", "special_expit",
))
# fmt: on


def elementwise(state: Propagation, node: fx.Node, name: str, arguments: Any) -> Any:
    """The value of an operation that works on each position for itself."""
    operator_name = name or getattr(node.target, "__name__", "")
    result = on_meta(state, node)
    operands = [(i, _as_value(a)) for i, a in enumerate(arguments) if isinstance(a, Value | Tensor)]
    shapes = [v.shape for _, v in operands]
    if operator_name not in _KNOWN or not isinstance(result, Tensor) or node.kwargs.keys() & {"out"}:
        return state.always(node, "is not known to keep channels apart")
    if tuple(result.shape) != tuple(torch.broadcast_shapes(*shapes)):  # type: ignore[no-untyped-call]
        return state.always(node, "is not known to keep channels apart")
    labels = _joined(state, node, operator_name, operands, len(result.shape))
    zero = _stays_zero(node, arguments) if labels is not None else False
    if labels is None:
        return Value.always(tuple(result.shape), result.dtype)
    return Value(tuple(result.shape), labels, zero, result.dtype)


def _as_value(item: Value | Tensor) -> Value:
    return item if isinstance(item, Value) else Value.always(tuple(item.shape), item.dtype)


def _aligned(value: Value, rank: int) -> tuple[Tensor, tuple[int, ...]]:
    missing = (1,) * (rank - len(value.shape))
    return value.labels.reshape((*missing, *value.labels.shape)), (*missing, *value.shape)


def _joined(state: Propagation, node: fx.Node, name: str, operands: list[tuple[int, Value]], rank: int) -> Tensor | None:
    """Labels of the result; None where nothing may go."""
    aligned = [(i, *_aligned(v, rank)) for i, v in operands]
    labelled = [(i, labels, shape) for i, labels, shape in aligned if bool((labels > 0).any())]
    if not labelled:
        return None
    varying = [{d for d in range(rank) if labels.shape[d] > 1} for _, labels, _ in labelled]
    main = set().union(*varying)
    kept = []
    for (index, labels, shape), own in zip(labelled, varying, strict=True):
        if main and (not own or (main - own and all(shape[d] == 1 for d in main))):
            # One channel that meets all channels of the others.
            state.atoms.fix(ids_of(labels), f"{place(node)}: is spread over channels")
        elif main - own and own and not any(o & own for o in varying if o is not own):
            state.atoms.fix(ids_of(labels), f"{place(node)}: meets channels along another axis")
        else:
            kept.append((index, labels, shape))
    if not kept:
        return None
    main = {d for _, labels, _ in kept for d in range(rank) if labels.shape[d] > 1}
    sizes = torch.broadcast_shapes(*[labels.shape for _, labels, _ in kept])  # type: ignore[no-untyped-call]
    result = torch.stack([labels.expand(sizes) for _, labels, _ in kept]).amax(0)
    reason = f"{place(node)}: joined with what always stays"
    for _, labels, _ in kept:
        state.meet(ids_of(result), ids_of(labels.expand(sizes)), reason)
    others = [(i, labels, shape) for i, labels, shape in aligned if all(i != k for k, _, _ in kept)]
    for index, _, shape in others:
        _meet_constant(state, node, name, index, shape, result, main, reason)
    return result


def _meet_constant(
    state: Propagation, node: fx.Node, name: str, index: int, shape: tuple[int, ...], labels: Tensor, main: set[int], reason: str
) -> None:
    """An operand that always stays: harmless where it is the same for all channels, cut where it only scales them."""
    if all(shape[d] == 1 for d in main):
        return
    if len(main) == 1 and name in _PICKS and not (name in ("div", "divide") and index == 0) and not (name == "where" and index > 0):
        dim = next(iter(main))
        own = dim - (labels.dim() - len(shape))
        ids = ids_of(labels.reshape(-1))
        state.adaptors.append(Adaptor(node.name, "gather", index, own - labels.dim(), ids))
        return
    state.atoms.fix(ids_of(labels).reshape(-1), reason)


def _stays_zero(node: fx.Node, arguments: Any) -> bool:
    """A trial: zeros where removed channels are zero, anything else elsewhere."""
    tensors = [a for a in arguments if isinstance(a, Value | Tensor)]
    choices = []
    for value in tensors:
        if isinstance(value, Value) and value.zero and value.labelled:
            choices.append([torch.zeros(1)])
        elif value.dtype == torch.bool:
            choices.append([torch.tensor([True]), torch.tensor([False])])
        else:
            choices.append([torch.ones(1, dtype=value.dtype), torch.full((1,), 2.0).to(value.dtype)])
    target: Any = node.target
    if node.op == "call_method":
        name = str(node.target)

        def target(x: Tensor, *rest: Any, **more: Any) -> Any:
            return getattr(x, name)(*rest, **more)

    for chosen in itertools.product(*choices):
        left = iter(chosen)
        filled = [next(left) if isinstance(a, Value | Tensor) else a for a in arguments]
        try:
            with torch.no_grad():
                result = target(*filled, **node.kwargs)
        except (RuntimeError, TypeError, ValueError):
            return False
        if not bool((result == 0).all()):
            return False
    return True
