"""Batch norms become part of the convolutions before them (Jacob 2018, section 3.2)."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from techniques.network import Network


def fold_batch_norms(network: Network) -> Network:
    """A copy in evaluation mode in which every batch norm right behind a convolution (that nothing else reads) is part of it.

    Real and meta networks alike. The graph is edited but not rebuilt: callers go on editing, then call `Network.rebuilt`.
    """
    result = network.clone().eval()
    calls = [str(node.target) for node, _ in result.module_calls()]
    for node, module in list(result.module_calls()):
        source = node.args[0] if node.args else None
        if not isinstance(module, nn.BatchNorm2d) or not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        name = str(source.target)
        conv = result.graph.get_submodule(name)
        if type(conv) is not nn.Conv2d or len(source.users) != 1 or calls.count(name) != 1 or hasattr(conv, "parametrizations"):
            continue
        if module.running_mean is None or module.running_var is None:
            continue
        parent, _, leaf = name.rpartition(".")
        setattr(result.graph.get_submodule(parent), leaf, _fused(conv, module))
        node.replace_all_uses_with(source)
        result.graph.graph.erase_node(node)
    return result


def _fused(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    if not conv.weight.is_meta:
        return fuse_conv_bn_eval(conv, norm)
    conv.bias = nn.Parameter(conv.weight.new_empty(conv.out_channels), requires_grad=False)
    return conv
