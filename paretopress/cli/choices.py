"""Enum options by their proto names in lower case, and lists of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from paretopress.cli.context import UsageError
from paretopress.v1 import dataset_pb2, search_pb2


class Metric(Enum):
    """How accuracy is measured."""

    TOP1 = "top1"
    TOP5 = "top5"
    MACRO_F1 = "macro-f1"
    AUROC = "auroc"
    AGREEMENT = "agreement"


class Preference(Enum):
    """Which member of the front is best."""

    FASTEST = "fastest"
    SMALLEST = "smallest"
    MOST_ACCURATE = "most-accurate"
    BALANCED = "balanced"


class SizeKind(Enum):
    """Which size is limited."""

    ONNX_SIZE = "onnx-size"
    WEIGHT_SIZE = "weight-size"
    DOWNLOAD_SIZE = "download-size"


class Resize(Enum):
    """How an image is brought to size."""

    NONE = "none"
    STRETCH = "stretch"
    SHORTEST_SIDE = "shortest-side"


class Crop(Enum):
    """What is cut off after resizing."""

    NONE = "none"
    CENTER = "center"


class Layout(Enum):
    """Order of the axes of uploaded arrays."""

    NHWC = "nhwc"
    NCHW = "nchw"


class ValueRange(Enum):
    """What pixel values become before mean and std."""

    ZERO_TO_ONE = "0..1"
    ZERO_TO_255 = "0..255"
    MINUS_ONE_TO_ONE = "-1..1"


class Interpolation(Enum):
    """How pixels are interpolated."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class Augmentation(Enum):
    """How training images are varied."""

    NONE = "none"
    SHIFT = "shift"
    SHIFT_FLIP = "shift-flip"


_P = dataset_pb2.Preprocessing
_NUMBERS: Mapping[Enum, Any] = {
    **{choice: search_pb2.Metric.Value(choice.name) for choice in Metric},
    **{choice: search_pb2.Preference.Value(choice.name) for choice in Preference},
    **{choice: search_pb2.Budget.SizeKind.Value(choice.name) for choice in SizeKind},
    **{choice: _P.Layout.Value(choice.name) for choice in Layout},
    **{choice: _P.Range.Value(choice.name) for choice in ValueRange},
    **{choice: _P.Interpolation.Value(choice.name) for choice in Interpolation},
    **{choice: dataset_pb2.DatasetOptions.Augmentation.Value(choice.name) for choice in Augmentation},
    Resize.NONE: _P.RESIZE_NONE,
    Resize.STRETCH: _P.STRETCH,
    Resize.SHORTEST_SIDE: _P.SHORTEST_SIDE,
    Crop.NONE: _P.CROP_NONE,
    Crop.CENTER: _P.CENTER,
}


def number(choice: Enum) -> Any:
    """The proto's number of a choice."""
    return _NUMBERS[choice]


def names(text: str, option: str) -> list[str]:
    """``cat,dog`` as names; ``@names.txt`` reads them from a file, one a line.

    Raises:
        UsageError: the file cannot be read.
    """
    if not text.startswith("@"):
        return [part.strip() for part in text.split(",")] if text else []
    try:
        return [line.strip() for line in Path(text[1:]).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: {text[1:]} cannot be read: {error}") from None


def numbers(text: str, option: str) -> list[float]:
    """``0.485,0.456,0.406`` as numbers.

    Raises:
        UsageError: something between the commas is no number.
    """
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"{option}: give numbers with commas between, such as 0.5,0.5,0.5; got {text!r}") from None
