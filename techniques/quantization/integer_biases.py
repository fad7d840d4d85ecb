"""Biases of integer linears as files hold them: whole multiples of input scale times weight scale (Jacob et al. 2018, equation 11).

`techniques.onnx_compaction` writes them as int32. With the biases rounded here, the file and the network are the same numbers.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import fx

from techniques.network import Network
from techniques.quantization.layers import ActivationQuantizer, QuantizedLinear

_ROUNDS = 8
"""A product of an integer and a scale is rounded itself: large biases need a few rounds until writing and reading keep them."""


@torch.no_grad()
def round_biases(network: Network) -> None:
    """Round the biases of linears that stand right behind one quantiser, in place; by half a step of a product at most."""
    scales: defaultdict[str, set[float]] = defaultdict(set)
    layers: dict[str, QuantizedLinear] = {}
    for node, layer in network.module_calls():
        if isinstance(layer, QuantizedLinear) and layer.bias is not None:
            layers[str(node.target)] = layer
            scales[str(node.target)].add(_input_scale(network, node))
    for name, layer in layers.items():
        (scale, *others) = scales[name]
        if scale and not others:
            step = layer.weight_scale * scale
            for _ in range(_ROUNDS):
                layer.bias.copy_((layer.bias / step).round() * step)


def _input_scale(network: Network, node: fx.Node) -> float:
    """Scale of the quantiser in front of a layer; 0 where there is none."""
    source = node.all_input_nodes[0]
    quantizer = network.graph.get_submodule(str(source.target)) if source.op == "call_module" else None
    return quantizer.scale if isinstance(quantizer, ActivationQuantizer) else 0.0
