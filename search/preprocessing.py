"""The preprocessing that a model expects, stated by the user: one frozen object from the request to the report. No torch.

Geometry (channels, resize, crop) is applied once, when a dataset is taken in; images are then kept as 8-bit pixels.
Values (range, mean, std) are applied whenever images are loaded: ``x = (low + pixel / 255 * (high - low) - mean) / std``.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from search.errors import FieldViolation, InvalidSpecError

Resize = Literal["none", "stretch", "shortest_side"]
Crop = Literal["none", "center"]
Layout = Literal["nhwc", "nchw"]
ValueRange = Literal["0..1", "0..255", "-1..1"]
Interpolation = Literal["bilinear", "bicubic"]

MAX_SIDE = 4096
MAX_CHANNELS = 16
MAX_RESIZED_PIXELS = 50_000_000
"""A strip of one pixel's height, brought to its full height, would not fit into any memory."""
_BOUNDS: dict[ValueRange, tuple[float, float]] = {"0..1": (0.0, 1.0), "0..255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}
_MAX_MEAN_WIDTHS, _MAX_STD_WIDTHS = 8, 4
"""What a mean and a std can be, in widths of their range: pictures have at most 1 and 0.5, in other units 50 and more."""
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network sees it.

    Attributes:
        height, width, channels: of the network's input, in pixels; image files are read as grey (1) or RGB (3).
        resize: ``none`` (images have the size already), ``stretch`` to height x width, or ``shortest_side`` to ``resize_size``.
        crop: ``center`` cuts height x width out of the middle after the resize.
        resize_size: pixels of the shortest side; 0 takes the smaller one of height and width.
        mean, std: per channel, in units of ``range``; one value serves all channels.
        layout: how images lie in uploaded *arrays*; the network itself is always fed ``(n, channels, height, width)``.
        range: what pixel values 0..255 are scaled to before mean and std.
        interpolation: of the resize.
    """

    height: int
    width: int
    channels: int = 3
    resize: Resize = "none"
    crop: Crop = "none"
    resize_size: int = 0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "nhwc"
    range: ValueRange = "0..1"
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(m) for m in self.mean))
        object.__setattr__(self, "std", tuple(float(s) for s in self.std))

    def violations(self, prefix: str = "preprocessing.") -> list[FieldViolation]:
        """Every field that cannot be, or cannot have been meant, at once."""
        return [*self._impossible(prefix), *self._other_units(prefix)]

    def _other_units(self, prefix: str) -> list[FieldViolation]:
        """Mean and std that are not in the units of ``range``: 123.675 of 0..1, or 0.485 of 0..255."""
        low, high = _BOUNDS.get(self.range, (0.0, math.inf))
        width, large = high - low, self.range == "0..255"
        small_std = large and any(0 < s < 1 for s in self.std)
        wrong = {
            "mean": any(abs(m) > _MAX_MEAN_WIDTHS * width for m in self.mean)
            or (small_std and 0 < max(map(abs, self.mean), default=0) <= 1),
            "std": any(s > _MAX_STD_WIDTHS * width for s in self.std) or small_std,
        }
        advice = "0..1, or multiply mean and std by 255" if small_std else "0..255, or divide mean and std by 255"
        return [
            FieldViolation(
                prefix + name, f"must be in the units of range, which is {self.range}, got {_listed(values)}; state range {advice}"
            )
            for name, values in (("mean", self.mean), ("std", self.std))
            if wrong[name]
        ]

    def _impossible(self, prefix: str) -> list[FieldViolation]:
        found: list[FieldViolation] = []
        for name, value, top in (
            ("height", self.height, MAX_SIDE),
            ("width", self.width, MAX_SIDE),
            ("channels", self.channels, MAX_CHANNELS),
        ):
            if not 1 <= value <= top:
                found.append(FieldViolation(prefix + name, f"must be between 1 and {top}, got {value}"))
        if not 0 <= self.resize_size <= MAX_SIDE:
            found.append(FieldViolation(prefix + "resize_size", f"must be between 0 and {MAX_SIDE}, got {self.resize_size}"))
        for name, choice, known in (
            ("resize", self.resize, get_args(Resize)),
            ("crop", self.crop, get_args(Crop)),
            ("layout", self.layout, get_args(Layout)),
            ("range", self.range, get_args(ValueRange)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
        ):
            if choice not in known:
                found.append(FieldViolation(prefix + name, f"must be one of {list(known)}, got {choice!r}"))
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                found.append(FieldViolation(prefix + name, f"must have 1 or {self.channels} values, got {len(values)}"))
            if not all(math.isfinite(v) for v in values):
                found.append(FieldViolation(prefix + name, f"must be finite, got {list(values)}"))
        if any(s <= 0 for s in self.std):
            found.append(FieldViolation(prefix + "std", f"must be above 0, got {list(self.std)}"))
        if self.resize_size and self.resize != "shortest_side":
            found.append(FieldViolation(prefix + "resize_size", "only goes with resize 'shortest_side'"))
        if self.resize == "shortest_side" and 0 < self.resize_size < min(self.height, self.width):
            found.append(FieldViolation(prefix + "resize_size", "must not be smaller than the crop"))
        return found

    def validated(self) -> Preprocessing:
        """Itself, if nothing is wrong.

        Raises:
            InvalidSpecError: with every bad field.
        """
        found = self.violations()
        if found:
            raise InvalidSpecError(found)
        return self

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @staticmethod
    def from_json(data: dict[str, Any]) -> Preprocessing:
        """Read what `to_json` gave; what was taken in under older rules stays readable.

        Raises:
            InvalidSpecError: an unknown or missing field, or an impossible value.
        """
        try:
            result = Preprocessing(**data)
        except (TypeError, ValueError) as error:
            raise InvalidSpecError([FieldViolation("preprocessing", str(error))]) from error
        found = result._impossible("preprocessing.")
        if found:
            raise InvalidSpecError(found)
        return result

    def describe(self) -> str:
        """One line for messages: what is done to an image, in order."""
        size = f"{self.height}x{self.width}x{self.channels}"
        side = f" {self.resize_size}" if self.resize_size else ""
        mean, std = _listed(self.mean), _listed(self.std)
        return (
            f"{size}, resize {self.resize}{side}, crop {self.crop}, layout {self.layout}, range {self.range}, "
            f"mean ({mean}), std ({std})"
        )

    def scale_and_offset(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Per channel ``(channels,)`` so that ``x = pixel * scale + offset`` for pixels 0..255."""
        low, high = _BOUNDS[self.range]
        mean, std = (np.broadcast_to(np.asarray(v, np.float64), self.channels) for v in (self.mean, self.std))
        scale = (high - low) / 255 / std
        return scale.astype(np.float32), ((low - mean) / std).astype(np.float32)

    def fit(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Channels, resize and crop of one image: ``(height, width, channels)`` uint8.

        Raises:
            ValueError: the result would not have the stated size, or the pixels have more than 8 bits.
        """
        if self.channels not in _MODES:
            raise ValueError(f"image files are read with 1 or 3 channels, not {self.channels}; send arrays instead")
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"pixels of more than 8 bits (mode {image.mode}); convert the images to 8 bits")
        image = image.convert(_MODES[self.channels])
        if self.resize == "stretch":
            image = image.resize((self.width, self.height), _FILTERS[self.interpolation])
        elif self.resize == "shortest_side":
            image = self._shortest_side(image)
        if self.crop == "center":
            image = self._center(image)
        if image.size != (self.width, self.height):
            advice = "state a resize" if self.resize == "none" else "add crop 'center'"
            raise ValueError(f"{image.height}x{image.width} pixels instead of {self.height}x{self.width}; {advice}")
        return np.asarray(image, np.uint8).reshape(self.height, self.width, self.channels)

    def fit_array(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The same for pixels ``(h, w, c)`` uint8 of an uploaded array."""
        if image.shape == (self.height, self.width, self.channels) and self.keeps_size:
            return image
        if image.shape[2] not in _MODES:
            wanted = (self.height, self.width, self.channels)
            raise ValueError(f"shape {image.shape} instead of {wanted}; only images of 1 or 3 channels are resized")
        return self.fit(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image))

    @property
    def keeps_size(self) -> bool:
        """Whether images of the stated size are taken as they are: nothing is stated that would resize them first."""
        return self.resize != "shortest_side" or self.resize_size in (0, min(self.height, self.width))

    def _shortest_side(self, image: Image.Image) -> Image.Image:
        side = self.resize_size or min(self.height, self.width)
        # Truncation of the longer side, in this order of operations, is what torchvision does.
        scaled = [side if length == min(image.size) else max(side, int(side * length / min(image.size))) for length in image.size]
        if scaled[0] * scaled[1] > MAX_RESIZED_PIXELS:
            raise ValueError(f"{scaled[1]}x{scaled[0]} pixels once resized are more than the limit of {MAX_RESIZED_PIXELS:,}")
        return image.resize((scaled[0], scaled[1]), _FILTERS[self.interpolation])

    def _center(self, image: Image.Image) -> Image.Image:
        if image.width < self.width or image.height < self.height:
            raise ValueError(f"{image.height}x{image.width} pixels are too few to crop {self.height}x{self.width}; state a resize")
        left, top = round((image.width - self.width) / 2), round((image.height - self.height) / 2)
        return image.crop((left, top, left + self.width, top + self.height))


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:g}" for v in values)
