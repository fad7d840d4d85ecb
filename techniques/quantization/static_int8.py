"""Post-training static int8 quantisation: integer weights per channel, activation ranges from calibration images.

Batch norm is folded into its convolution first (Jacob et al. 2018, section 3.2).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from techniques.base import Transform
from techniques.context import TechniqueContext
from techniques.errors import ConfigError, DataRequiredError
from techniques.folding import fold_batch_norms
from techniques.network import Network
from techniques.parameters import ChoiceParameter, Parameter
from techniques.quantization.layers import REDUCED_WEIGHT_LIMIT, WEIGHT_LIMIT, ActivationQuantizer, QuantizedConv2d, QuantizedLinear
from techniques.quantization.placement import Placement, place
from techniques.quantization.ranges import RangeChoice, affine_parameters, choose_range, collect
from techniques.shapes import node_shapes


@dataclass(frozen=True)
class Int8QuantizationConfig:
    """Which layers become int8 and how activation ranges are chosen.

    Attributes:
        layers: ``all``, or names of convolutions and linears.
        exclude: shell patterns of layers that stay float.
        ranges: ``min_max``, ``percentile`` or ``mse`` (least squared error of clipping and rounding).
        percentile: share in percent of values that a percentile range covers, at each end.
        calibration_images: how many are looked at, or all if there are fewer.
        reduce_range: weights use 7 of their 8 bits, as x86 processors without VNNI need (else their kernels saturate).
    """

    layers: str | Sequence[str] = "all"
    exclude: Sequence[str] = ()
    ranges: RangeChoice = "percentile"
    percentile: float = 99.99
    calibration_images: int = 512
    reduce_range: bool = True

    def __post_init__(self) -> None:
        if self.layers != "all" and (isinstance(self.layers, str) or not all(isinstance(n, str) for n in self.layers)):
            raise ValueError(f"layers must be 'all' or a list of layer names, got {self.layers!r}")
        if isinstance(self.exclude, str) or not all(isinstance(name, str) for name in self.exclude):
            raise ValueError(f"exclude must be a list of patterns, got {self.exclude!r}")
        if self.ranges not in ("min_max", "percentile", "mse"):
            raise ValueError(f"ranges must be 'min_max', 'percentile' or 'mse', got {self.ranges!r}")
        if not (isinstance(self.percentile, int | float) and 90 <= self.percentile <= 100):
            raise ValueError(f"percentile must be in [90, 100], got {self.percentile!r}")
        if not isinstance(self.calibration_images, int) or self.calibration_images < 1:
            raise ValueError(f"calibration_images must be a whole number above 0, got {self.calibration_images!r}")
        if not isinstance(self.reduce_range, bool):
            raise ValueError(f"reduce_range must be true or false, got {self.reduce_range!r}")


class Int8Quantization(Transform[Int8QuantizationConfig]):
    """Weights to int8, activations to uint8 (or int8, as the target prefers)."""

    name = "int8_quantization"
    config_type = Int8QuantizationConfig
    reduces = frozenset({"bits"})
    after_training = True
    ignores_sizes = True

    def parameters(self, network: Network, context: TechniqueContext) -> Sequence[Parameter]:
        """How ranges are chosen; which layers stay float is the search's decision by their sensitivity."""
        if not _float_layers(network, context):
            return ()
        return (ChoiceParameter("ranges", ("percentile", "mse", "min_max"), "percentile"),)

    def apply(self, network: Network, config: Int8QuantizationConfig, context: TechniqueContext) -> Network:
        """See the base; real weights need calibration images, on meta all scales are without value."""
        layers = _chosen(network, config, context)
        if not layers:
            raise ConfigError("int8_quantization: no layer is left to quantise; check layers, exclude and the scopes")
        if context.calibration is None and not network.is_meta:
            raise DataRequiredError("int8_quantization: activation ranges need calibration images")
        result = fold_batch_norms(network)
        placement = place(result, layers, node_shapes(result))
        scales = _scales(result, placement, config, context)
        for name in layers:
            _swap(result.graph, name, REDUCED_WEIGHT_LIMIT if config.reduce_range else WEIGHT_LIMIT)
        _insert_quantizers(result, placement, scales, context.unsigned_activations)
        return result.rebuilt().eval()


def _float_layers(network: Network, context: TechniqueContext) -> tuple[str, ...]:
    layers = network.layers()
    return tuple(name for name, layer in layers.items() if type(layer) in (nn.Conv2d, nn.Linear) and context.in_scope(name))


def _chosen(network: Network, config: Int8QuantizationConfig, context: TechniqueContext) -> frozenset[str]:
    known = _float_layers(network, context)
    wanted = known if config.layers == "all" else tuple(config.layers)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise ConfigError(f"int8_quantization: layers {unknown} are no float layers in scope; known: {sorted(known)}")
    return frozenset(name for name in wanted if not any(fnmatch.fnmatchcase(name, pattern) for pattern in config.exclude))


def _scales(
    network: Network, placement: Placement, config: Int8QuantizationConfig, context: TechniqueContext
) -> dict[str, tuple[float, int]]:
    """Scale and zero point of every node that owns one."""
    owners = sorted(set(placement.points.values()))
    if network.is_meta or context.calibration is None:
        return dict.fromkeys(owners, (1.0, 0))
    histograms = collect(network, owners, context.calibration, config.calibration_images)
    limits = {name: choose_range(histogram, config.ranges, config.percentile) for name, histogram in histograms.items()}
    return {name: affine_parameters(low, high, context.unsigned_activations) for name, (low, high) in limits.items()}


def _insert_quantizers(network: Network, placement: Placement, scales: Mapping[str, tuple[float, int]], unsigned: bool) -> None:
    graph = network.graph.graph
    for node in [n for n in graph.nodes if n.name in placement.points]:
        scale, zero_point = scales[placement.points[node.name]]
        quantizer = ActivationQuantizer(scale, zero_point, unsigned)
        name = f"{node.name}_quantizer"
        network.graph.add_submodule(name, quantizer)
        with graph.inserting_after(node):
            call = graph.call_module(name, (node,))
        node.replace_all_uses_with(call, delete_user_cb=lambda user, call=call: user is not call)


def _swap(graph: fx.GraphModule, name: str, limit: int) -> None:
    layer = graph.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)  # chosen among these
    quantized: nn.Module
    quantized = (
        QuantizedConv2d.from_float(layer, limit) if isinstance(layer, nn.Conv2d) else QuantizedLinear.from_float(layer, limit)
    )
    _set_submodule(graph, name, quantized)


def _set_submodule(graph: fx.GraphModule, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(graph.get_submodule(parent), leaf, module)
