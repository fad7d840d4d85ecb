"""Proto enums and the words of the domain, pair by pair; a number that this server does not know is a bad field."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from paretopress.v1 import dataset_pb2, measurement_pb2, model_pb2, search_pb2
from search.dataset_file import Augment
from search.errors import FieldViolation
from search.preprocessing import Crop, Interpolation, Layout, Resize, ValueRange
from search.spec import Preference, SizeName

WordT = TypeVar("WordT", bound=str)


class EnumPairs(Generic[WordT]):
    """Both directions of one enum. ``unspecified`` is what 0 means; None makes it a missing field."""

    def __init__(self, words: Mapping[int, WordT], unspecified: WordT | None = None) -> None:
        self._words = dict(words)
        self._numbers: dict[str, int] = {word: number for number, word in words.items()}
        self._unspecified = unspecified

    def word(self, number: int, field: str, found: list[FieldViolation]) -> WordT:
        """The domain's word; a violation is noted (and some word returned) for a number that means nothing."""
        if number == 0 and self._unspecified is not None:
            return self._unspecified
        if number not in self._words:
            problem = "must be given" if number == 0 else f"unknown number {number}"
            found.append(FieldViolation(field, f"{problem}; known are {sorted(self._numbers)}"))
            return next(iter(self._words.values()))
        return self._words[number]

    def number(self, word: str) -> Any:
        """The proto's number (of the generated enum's own type); 0 for a word that the contract does not know."""
        return self._numbers.get(word, 0)


_P = dataset_pb2.Preprocessing
METRICS: EnumPairs[str] = EnumPairs(
    {
        search_pb2.TOP1: "top1",
        search_pb2.TOP5: "top5",
        search_pb2.MACRO_F1: "macro_f1",
        search_pb2.AUROC: "auroc",
        search_pb2.AGREEMENT: "agreement",
    },
    "top1",
)
PREFERENCES: EnumPairs[Preference] = EnumPairs(
    {
        search_pb2.FASTEST: "fastest",
        search_pb2.SMALLEST: "smallest",
        search_pb2.MOST_ACCURATE: "most_accurate",
        search_pb2.BALANCED: "balanced",
    },
    "fastest",
)
SIZES: EnumPairs[SizeName] = EnumPairs(
    {
        search_pb2.Budget.ONNX_SIZE: "onnx_size_bytes",
        search_pb2.Budget.WEIGHT_SIZE: "weight_size_bytes",
        search_pb2.Budget.DOWNLOAD_SIZE: "download_size_bytes",
    },
    "onnx_size_bytes",
)
MODEL_FORMATS: EnumPairs[str] = EnumPairs(
    {model_pb2.Model.PT2: "pt2", model_pb2.Model.ONNX: "onnx", model_pb2.Model.ARCHITECTURE: "architecture"}
)
DATASET_FORMATS: EnumPairs[str] = EnumPairs(
    {
        dataset_pb2.Dataset.NPZ: "npz",
        dataset_pb2.Dataset.CSV: "csv",
        dataset_pb2.Dataset.ZIP: "zip",
        dataset_pb2.Dataset.TAR: "tar",
    }
)
RESIZES: EnumPairs[Resize] = EnumPairs({_P.RESIZE_NONE: "none", _P.STRETCH: "stretch", _P.SHORTEST_SIDE: "shortest_side"}, "none")
CROPS: EnumPairs[Crop] = EnumPairs({_P.CROP_NONE: "none", _P.CENTER: "center"}, "none")
LAYOUTS: EnumPairs[Layout] = EnumPairs({_P.NHWC: "nhwc", _P.NCHW: "nchw"}, "nhwc")
RANGES: EnumPairs[ValueRange] = EnumPairs({_P.ZERO_TO_ONE: "0..1", _P.ZERO_TO_255: "0..255", _P.MINUS_ONE_TO_ONE: "-1..1"}, "0..1")
INTERPOLATIONS: EnumPairs[Interpolation] = EnumPairs({_P.BILINEAR: "bilinear", _P.BICUBIC: "bicubic"}, "bilinear")
AUGMENTATIONS: EnumPairs[Augment] = EnumPairs(
    {
        dataset_pb2.DatasetOptions.NONE: "none",
        dataset_pb2.DatasetOptions.SHIFT: "shift",
        dataset_pb2.DatasetOptions.SHIFT_FLIP: "shift_flip",
    },
    "shift",
)
SOURCES: EnumPairs[str] = EnumPairs(
    {
        measurement_pb2.Measurement.MEASURED: "measured",
        measurement_pb2.Measurement.PREDICTED: "predicted",
        measurement_pb2.Measurement.COUNTED: "counted",
    }
)


def timestamp(seconds: float | None) -> Timestamp | None:
    """Seconds since the epoch as a proto timestamp."""
    if seconds is None:
        return None
    result = Timestamp()
    result.FromDatetime(datetime.fromtimestamp(seconds, UTC))
    return result


def seconds_of(value: Timestamp | Duration) -> float:
    """Seconds of a proto duration; of a timestamp, since the epoch."""
    return value.seconds + value.nanos / 1e9
