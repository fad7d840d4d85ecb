"""Input resolution: the network works on a smaller image, which it makes itself; callers send what they always sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from techniques.base import Transform
from techniques.context import TechniqueContext
from techniques.errors import ConfigError, TechniqueError
from techniques.network import Network
from techniques.option import NETWORK, Option
from techniques.recipe import Step
from techniques.shapes import node_shapes

MODULE_NAME = "input_resize"
SCALES = (0.857, 0.714)
"""Of height and width: 192 and 160 of 224 pixels."""


@dataclass(frozen=True)
class InputResolutionConfig:
    """Size in pixels at which the network works."""

    height: int
    width: int

    def __post_init__(self) -> None:
        for name, value in (("height", self.height), ("width", self.width)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of pixels above 0, got {value!r}")


class InputResize(nn.Upsample):
    """Bilinear resize to a fixed size, half-pixel centres, no antialiasing: exactly ONNX Resize ``linear``."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(size=(height, width), mode="bilinear", align_corners=False)


class InputResolution(Transform[InputResolutionConfig]):
    """Put a resize in front of the network; ``Network.input_shape`` stays what callers send."""

    name = "input_resolution"
    config_type = InputResolutionConfig
    axis = stage = "resolution"
    cites = "Tan and Le 2019, EfficientNet, section 3"
    not_supported_on = "networks whose input size is fixed"
    reduces = frozenset({"macs"})

    def supports(self, network: Network, context: TechniqueContext) -> str:
        """A network must run at several sizes, and not bring a resize of its own."""
        if not network.size_is_free:
            return f"the input size of this network is fixed: {network.size_note or 'no reason given'}"
        return "the network already carries a resize" if _has_resize(network) else ""

    def options(self, network: Network, context: TechniqueContext) -> Sequence[Option]:
        """Two smaller sizes for the whole network."""
        layers = tuple(network.layers())
        sizes = {scale: scaled_size(network, scale) for scale in SCALES if not self.supports(network, context)}
        return [
            Option(self.name, self.axis, NETWORK, 1 - scale, layers, level, data={"height": h, "width": w}, label=f"{scale:g}")
            for level, (scale, (h, w)) in enumerate(sizes.items())
            if (h, w) != network.input_shape[1:]
        ]

    def step(
        self, network: Network, options: Sequence[Option], settings: Mapping[str, Any], context: TechniqueContext
    ) -> Step | None:
        """The size in pixels."""
        return self.make_step(options[-1].data) if options else None

    def apply(self, network: Network, config: InputResolutionConfig, context: TechniqueContext) -> Network:
        """See the base; needs no data."""
        _, height, width = network.input_shape
        reason = self.supports(network, context)
        if reason:
            raise ConfigError(f"input_resolution: {reason}")
        if config.height > height or config.width > width or (config.height, config.width) == (height, width):
            raise ConfigError(f"input_resolution: {config.height}x{config.width} is not smaller than the input, {height}x{width}")
        result = network.clone()
        graph = result.graph.graph
        image = next(node for node in graph.nodes if node.op == "placeholder")
        result.graph.add_submodule(MODULE_NAME, InputResize(config.height, config.width))
        with graph.inserting_after(image):
            resized = graph.call_module(MODULE_NAME, (image,))
        image.replace_all_uses_with(resized, delete_user_cb=lambda user: user is not resized)
        result = result.rebuilt()
        try:
            node_shapes(result)
        except TechniqueError as error:
            raise ConfigError(f"input_resolution: the network does not run at {config.height}x{config.width}: {error}") from error
        return result


def scaled_size(network: Network, scale: float) -> tuple[int, int]:
    """Height and width nearest to ``scale`` times the input's, at least one pixel."""
    _, height, width = network.input_shape
    return max(1, round(height * scale)), max(1, round(width * scale))


def _has_resize(network: Network) -> bool:
    return any(isinstance(module, InputResize) for _, module in network.module_calls())
