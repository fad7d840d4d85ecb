"""Recurrent layers: GRU and LSTM, with the gates in the order that torch has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from techniques.onnx_graph import BATCH, Converter, GraphBuilder, UnsupportedOperatorError
from techniques.onnx_operators.arguments import at, aten, shape, text
from techniques.onnx_operators.indexing import parts

_GRU_GATES, _LSTM_GATES = (1, 0, 2), (0, 2, 3, 1)
"""ONNX has update, reset, new (torch: reset, update, new) and input, output, forget, cell (torch: input, forget, cell, output)."""


def _gru(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> list[fx.Node]:
    if not attributes.get("linear_before_reset", 0):
        raise UnsupportedOperatorError("linear_before_reset 0: torch applies the reset gate behind the product")
    states = _states(b, inputs, attributes, 1)
    weights, biased = _weights(b, inputs, _GRU_GATES), at(inputs, 3) is not None
    node = b.call(aten.gru.input, inputs[0], states[0], weights, biased, 1, 0.0, False, _two_ways(attributes), False)
    return _in_onnx_order(b, parts(b, node), _directions(attributes))


def _lstm(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any]) -> list[fx.Node]:
    if at(inputs, 7) is not None or attributes.get("input_forget", 0):
        raise UnsupportedOperatorError("peepholes or coupled gates")
    states = _states(b, inputs, attributes, 2)
    weights, biased = _weights(b, inputs, _LSTM_GATES), at(inputs, 3) is not None
    node = b.call(aten.lstm.input, inputs[0], states, weights, biased, 1, 0.0, False, _two_ways(attributes), False)
    return _in_onnx_order(b, parts(b, node), _directions(attributes))


def _two_ways(attributes: dict[str, Any]) -> bool:
    return text(attributes, "direction", "forward") == "bidirectional"


def _directions(attributes: dict[str, Any]) -> int:
    return 2 if _two_ways(attributes) else 1


def _states(b: GraphBuilder, inputs: list[Any], attributes: dict[str, Any], count: int) -> list[fx.Node]:
    """What the layer begins with; constants are the same for every image."""
    plain = not {"activations", "activation_alpha", "activation_beta", "clip"} & set(attributes)
    if not plain or attributes.get("layout", 0) or at(inputs, 4) is not None:
        raise UnsupportedOperatorError("activations, clip, layout or lengths of its own")
    if text(attributes, "direction", "forward") == "reverse" or shape(inputs[0])[1] % BATCH:
        raise UnsupportedOperatorError("backwards alone, or along the batch")
    hidden = int(attributes["hidden_size"])
    found = []
    for index in range(5, 5 + count):
        first = at(inputs, index, np.zeros((_directions(attributes), 1, hidden), np.float32))
        if isinstance(first, np.ndarray) and first.shape[1] != 1:
            raise UnsupportedOperatorError("a first state for every image")
        state = first if isinstance(first, fx.Node) else b.fixed(first.astype(np.float32))
        found.append(b.call(aten.expand.default, state, [-1, b.sizes([BATCH, 0])[0], -1]) if shape(state)[1] == 1 else state)
    return found


def _weights(b: GraphBuilder, inputs: list[Any], gates: tuple[int, ...]) -> list[fx.Node]:
    """Of every direction: input weights, recurrent weights and, where there are any, their biases."""
    name, found = b.holder("recurrent"), list[fx.Node]()
    for way in range(shape(inputs[1])[0]):
        suffix = "_reverse" if way else ""
        arrays = {"weight_ih_l0": inputs[1][way], "weight_hh_l0": inputs[2][way]}
        if at(inputs, 3) is not None:
            arrays |= dict(zip(("bias_ih_l0", "bias_hh_l0"), np.split(inputs[3][way], 2), strict=True))
        for leaf, values in arrays.items():
            found.append(b.weight(np.concatenate([np.split(values, len(gates))[g] for g in gates]), f"{name}.{leaf}{suffix}"))
    return found


def _in_onnx_order(b: GraphBuilder, results: list[fx.Node], directions: int) -> list[fx.Node]:
    """Outputs as ``(length, directions, batch, features)``; the last states are as they are."""
    length, batch, features = shape(results[0])
    apart = b.call(aten.reshape.default, results[0], b.sizes([length, batch, directions, features // directions]))
    return [b.call(aten.permute.default, apart, [0, 2, 1, 3]), *results[1:]]


RECURRENT: dict[str, Converter] = {"GRU": _gru, "LSTM": _lstm}
