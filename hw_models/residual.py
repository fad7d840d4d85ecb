"""What a roofline leaves: gradient-boosted trees on the log of a kernel's time over its roofline.

Vector units, tiles and packing make steps that no linear combination of work has; trees find them in channel counts modulo 8,
16 and 32, widths modulo 3 and 6, and the sides of the matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hw_models.errors import PredictorFormatError
from hw_models.kernels import GEOMETRY, Kernel

if TYPE_CHECKING:
    import lightgbm  # takes a second to import: only where trees are really fitted or read

MIN_KERNELS = 120
MAX_LOG_RATIO = 1.5
"""Trees do not extrapolate; a residual beyond a factor of 4.5 is taken for noise."""
_PARAMETERS = {
    "objective": "huber", "alpha": 0.1, "learning_rate": 0.05, "feature_fraction": 0.7, "bagging_fraction": 0.8, "bagging_freq": 1,
    "num_threads": 1, "deterministic": True, "force_row_wise": True, "verbosity": -1, "seed": 0,
}  # fmt: skip
_LAYOUTS = ("plain", "blocked", "direct")
_KINDS = (
    "conv1x1", "convkxk", "depthwise", "grouped", "first_conv", "linear", "add", "elementwise", "hard_sigmoid", "sigmoid", "silu",
    "gelu", "tanh", "max_pool", "avg_pool", "global_pool", "concat", "transpose", "shuffle", "shuffle_turned", "split", "slice",
    "pad", "reshape", "quantize", "dequantize", "reorder", "resize", "layer_norm",
)  # fmt: skip
FEATURE_NAMES = (
    "kind", "layout", *GEOMETRY, "log_roofline", "log_macs", "log_bytes", "log_weight_bytes", "log_im2col_bytes", "coldness",
    "log_pixels",
    "log_k", "intensity", "in_mod_8", "out_mod_8", "in_mod_16", "out_mod_16", "out_mod_32", "width_mod_3", "width_mod_6",
    "pixels_mod_16", "k_mod_4", "log_loads",
)  # fmt: skip


def residual_features(kernel: Kernel, roofline_ns: float) -> tuple[float, ...]:
    """Numbers that the trees split on, in the order of `FEATURE_NAMES`."""
    inputs, outputs, _, window_height, window_width, _, height, width, _ = kernel.geometry
    pixels, moved = height * width, kernel.bytes_in + kernel.bytes_out + kernel.weight_bytes
    return (
        _KINDS.index(kernel.kind) if kernel.kind in _KINDS else len(_KINDS),
        _LAYOUTS.index(kernel.layout),
        *kernel.geometry,
        math.log(roofline_ns),
        math.log1p(kernel.macs),
        math.log1p(kernel.bytes_in + kernel.bytes_out),
        math.log1p(kernel.weight_bytes),
        math.log1p(kernel.im2col_bytes),
        kernel.coldness,
        math.log1p(pixels),
        math.log1p(inputs * window_height * window_width),
        math.log1p(kernel.macs / (1 + moved)),
        inputs % 8,
        outputs % 8,
        inputs % 16,
        outputs % 16,
        outputs % 32,
        width % 3,
        width % 6,
        pixels % 16,
        inputs * window_height * window_width % 4,
        math.log1p(kernel.loads),
    )


@dataclass(frozen=True)
class TreeParameters:
    """How much the trees may learn."""

    rounds: int = 600
    leaves: int = 40
    min_kernels_in_leaf: int = 8
    l2: float = 1.0


MANY = TreeParameters()


class Residual:
    """Fitted trees of one precision."""

    def __init__(self, booster: lightgbm.Booster) -> None:
        self._booster = booster

    @staticmethod
    def fit(
        features: npt.NDArray[np.float64],
        log_ratios: npt.NDArray[np.float64],
        weights: npt.NDArray[np.float64],
        names: Sequence[str] = FEATURE_NAMES,
        trees: TreeParameters = MANY,
    ) -> Residual | None:
        """Trees for ``log(time / roofline)``; None where there are too few kernels to learn from."""
        if len(features) < MIN_KERNELS:
            return None
        import lightgbm

        clipped = np.clip(log_ratios, -MAX_LOG_RATIO, MAX_LOG_RATIO)
        named: dict[str, Any] = {"feature_name": list(names), "categorical_feature": ["kind", "layout"]}
        data = lightgbm.Dataset(features, clipped, weight=weights, **named)
        size = {"num_leaves": trees.leaves, "min_data_in_leaf": trees.min_kernels_in_leaf, "lambda_l2": trees.l2}
        return Residual(lightgbm.train({**_PARAMETERS, **size}, data, num_boost_round=trees.rounds))

    def factors(self, features: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
        """What the rooflines are multiplied by."""
        predicted: Any = self._booster.predict(np.asarray(features, float), num_threads=1)
        return np.asarray(np.exp(np.clip(predicted, -MAX_LOG_RATIO, MAX_LOG_RATIO)), float)

    def to_text(self) -> str:
        """LightGBM's own text format."""
        return str(self._booster.model_to_string())

    @staticmethod
    def from_text(text: str, names: Sequence[str] = FEATURE_NAMES) -> Residual:
        """Read what `to_text` wrote.

        Raises:
            PredictorFormatError: it is no model, or one of other features.
        """
        import lightgbm

        try:
            booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise PredictorFormatError(f"the residual's trees cannot be read: {error}") from error
        if tuple(booster.feature_name()) != tuple(names):
            raise PredictorFormatError("the residual's trees are of other features: calibrate the target again")
        return Residual(booster)
