"""Post-training static int8 quantisation: integer weights per channel, activation ranges from calibration images.

Batch norm is folded into its convolution first (Jacob et al. 2018, section 3.2), and what rounding shifts on average is taken back
by the biases (Nagel et al. 2019, section 4.2; see `bias_correction`).
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import fx, nn

from techniques.base import Transform
from techniques.context import ImageSource, TechniqueContext
from techniques.errors import ConfigError, DataRequiredError
from techniques.folding import fold_batch_norms
from techniques.network import Network
from techniques.option import NETWORK, Option
from techniques.quantization.bias_correction import Comparison
from techniques.quantization.in_the_loop import QuantizationInTheLoop
from techniques.quantization.integer_biases import round_biases
from techniques.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLinear
from techniques.quantization.placement import Placement, place
from techniques.quantization.ranges import RANGE_CHOICES, RangeChoice, affine_parameters, choose_range, collect
from techniques.recipe import Step
from techniques.shapes import node_shapes
from techniques.training.parts import Regime

_COMPARED_IMAGES = 64
FORMAT = (8, 8)
"""Bits of weights and activations."""


@dataclass(frozen=True)
class Int8QuantizationConfig:
    """Which layers become int8 and how activation ranges are chosen.

    Attributes:
        layers: ``all``, or names of convolutions and linears.
        exclude: shell patterns of layers that stay float.
        ranges: ``min_max``, ``percentile``, ``mse`` (least squared error of clipping and rounding), or ``auto``: of these three the
            one that changes the network's outputs least on the calibration images.
        percentile: share in percent of values that a percentile range covers, at each end.
        calibration_images: how many are looked at, or all if there are fewer.
        reduce_range: weights are kept small enough for processors that add two products in 16 bits, as x86 without VNNI does;
            None: as the target needs it (``TechniqueContext.reduced_weight_range``).
        correct_bias: whether biases take back what rounding shifts on average.
        in_loop: whether the last rung of training rounds as well (`QuantizationInTheLoop`). For networks that lose by rounding: its
            steps take up to a third longer, and ResNet-20 gained nothing by them (ADR 0018).
    """

    layers: str | Sequence[str] = "all"
    exclude: Sequence[str] = ()
    ranges: RangeChoice | Literal["auto"] = "auto"
    percentile: float = 99.99
    calibration_images: int = 512
    reduce_range: bool | None = None
    correct_bias: bool = True
    in_loop: bool = False

    def __post_init__(self) -> None:
        if self.layers != "all" and (isinstance(self.layers, str) or not all(isinstance(n, str) for n in self.layers)):
            raise ValueError(f"layers must be 'all' or a list of layer names, got {self.layers!r}")
        if isinstance(self.exclude, str) or not all(isinstance(name, str) for name in self.exclude):
            raise ValueError(f"exclude must be a list of patterns, got {self.exclude!r}")
        if self.ranges not in (*RANGE_CHOICES, "auto"):
            raise ValueError(f"ranges must be one of {[*RANGE_CHOICES, 'auto']}, got {self.ranges!r}")
        if not (isinstance(self.percentile, int | float) and 90 <= self.percentile <= 100):
            raise ValueError(f"percentile must be in [90, 100], got {self.percentile!r}")
        if not isinstance(self.calibration_images, int) or self.calibration_images < 1:
            raise ValueError(f"calibration_images must be a whole number above 0, got {self.calibration_images!r}")
        if not isinstance(self.reduce_range, bool | None):
            raise ValueError(f"reduce_range must be true, false or null, got {self.reduce_range!r}")
        for name in ("correct_bias", "in_loop"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")


class Int8Quantization(Transform[Int8QuantizationConfig]):
    """Weights to int8, activations to uint8 (or int8, as the target prefers)."""

    name = "int8_quantization"
    config_type = Int8QuantizationConfig
    axis = stage = "bits"
    cites = "Jacob et al. 2018; bias correction: Nagel et al. 2019"
    not_supported_on = "targets without 8-bit integers"
    reduces = frozenset({"bits"})
    after_training = True
    ignores_sizes = True

    def supports(self, network: Network, context: TechniqueContext) -> str:
        """The target must run 8 bits; there must be layers of floats in scope."""
        if FORMAT not in context.formats:
            return "the target runs no layers of 8-bit integers"
        return "" if _float_layers(network, context) else "no layer of floats is in scope"

    def options(self, network: Network, context: TechniqueContext) -> Sequence[Option]:
        """All layers at once: a layer between layers of floats pays for two conversions."""
        if self.supports(network, context):
            return ()
        share = 1 - FORMAT[0] / 32
        return (Option(self.name, self.axis, NETWORK, share, _float_layers(network, context), label="int8"),)

    def step(
        self, network: Network, options: Sequence[Option], settings: Mapping[str, Any], context: TechniqueContext
    ) -> Step | None:
        """All layers, with the range of weights that the target needs."""
        return self.make_step({"reduce_range": context.reduced_weight_range})

    def regimes(self, config: Int8QuantizationConfig, context: TechniqueContext) -> Sequence[Regime]:
        """See the base: the last rung trains on rounded weights and inputs."""
        if not config.in_loop:
            return ()
        layers = config.layers if isinstance(config.layers, str) else tuple(config.layers)
        reduced = context.reduced_weight_range if config.reduce_range is None else config.reduce_range
        return (QuantizationInTheLoop(layers, tuple(config.exclude), tuple(context.scopes), reduced),)

    def sparing(self, step: Step, layers: Sequence[str]) -> Step | None:
        """The layers stay in float."""
        exclude = list(step.config.get("exclude", ()))
        more = [name for name in layers if name not in exclude]
        return replace(step, config={**step.config, "exclude": [*exclude, *more]}) if more else None

    def apply(self, network: Network, config: Int8QuantizationConfig, context: TechniqueContext) -> Network:
        """See the base; real weights need calibration images, on meta all scales are without value."""
        layers = _chosen(network, config, context)
        if not layers:
            raise ConfigError("int8_quantization: no layer is left to quantise; check layers, exclude and the scopes")
        if context.calibration is None and not network.is_meta:
            raise DataRequiredError("int8_quantization: activation ranges need calibration images")
        folded = fold_batch_norms(network)
        placement = place(folded, layers, node_shapes(folded))
        plan = _Plan(folded, layers, placement, config, context)
        if network.is_meta or context.calibration is None:
            return plan.quantized(dict.fromkeys(placement.points.values(), (1.0, 0)))
        return _nearest(plan, context.calibration)


@dataclass(frozen=True)
class _Plan:
    """Everything but the scales: a folded network, the layers to swap and the values to round."""

    folded: Network
    layers: frozenset[str]
    placement: Placement
    config: Int8QuantizationConfig
    context: TechniqueContext

    def quantized(self, scales: Mapping[str, tuple[float, int]]) -> Network:
        """The quantised copy for scale and zero point of every node that owns one."""
        # Scales without values make one network only: it need not be kept.
        result, context = self.folded if self.folded.is_meta else self.folded.clone(), self.context
        reduced = context.reduced_weight_range if self.config.reduce_range is None else self.config.reduce_range
        input_scales: dict[str, float] = {}
        for node, _ in result.module_calls():
            if str(node.target) in self.layers:
                scale, _ = scales[self.placement.points[node.all_input_nodes[0].name]]
                input_scales[str(node.target)] = min(scale, input_scales.get(str(node.target), scale))
        for name, scale in input_scales.items():
            _swap(result.graph, name, reduced, scale)
        _insert_quantizers(result, self.placement, scales, context.unsigned_activations)
        return result.rebuilt().eval()


def _nearest(plan: _Plan, images: ImageSource) -> Network:
    """The quantised network by the chosen ranges; of several choices the one with the least squared error of the outputs."""
    config, unsigned = plan.config, plan.context.unsigned_activations
    histograms = collect(plan.folded, set(plan.placement.points.values()), images, config.calibration_images)
    original = Comparison.of(plan.folded, plan.layers, images, min(_COMPARED_IMAGES, config.calibration_images))
    best, least = None, math.inf
    for choice in RANGE_CHOICES if config.ranges == "auto" else (config.ranges,):
        limits = {name: choose_range(histogram, choice, config.percentile) for name, histogram in histograms.items()}
        scales = {name: affine_parameters(low, high, unsigned) for name, (low, high) in limits.items()}
        result = plan.quantized(scales)
        error = original.corrected(result) if config.correct_bias else original.error(result)
        if best is None or error < least:
            best, least = result, error
    assert best is not None  # there is at least one choice
    round_biases(best)
    return best


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


def _swap(graph: fx.GraphModule, name: str, reduced: bool, input_scale: float) -> None:
    layer = graph.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)  # chosen among these
    kind: type[QuantizedConv2d | QuantizedLinear] = QuantizedConv2d if isinstance(layer, nn.Conv2d) else QuantizedLinear
    _set_submodule(graph, name, kind.from_float(layer, reduced, input_scale))  # type: ignore[arg-type]


def _set_submodule(graph: fx.GraphModule, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(graph.get_submodule(parent), leaf, module)
