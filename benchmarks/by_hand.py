"""What is done by hand today, with the field's tools: Torch-Pruning, distillation, ONNX Runtime's int8. Run by `open_space_best`.

One network per ratio of pruning; they share the minutes that a search gets. The distillation is the product's own, with its
learning rate found by the same test, so that only what is chosen differs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from benchmarks.harness import Row
from examples.demo import Subject
from hw_models.targets import get_target
from paretopress.runtime.measure import measure_latency
from paretopress.runtime.session import run_classifier
from search.dataset_file import SPLITS, DatasetMetadata, DatasetTensors, write
from search.evaluation.data import ImageData, TrainingSource, open_teacher_logits, write_teacher_logits
from search.preprocessing import Preprocessing
from search.step_time import fastest_step
from techniques.context import TechniqueContext
from techniques.distillation.soft_targets import DistillationConfig, SoftTargets
from techniques.effort import TrainingEffort
from techniques.export import to_onnx
from techniques.lift import from_module
from techniques.network import Network
from techniques.training.loop import Training, fit
from techniques.training.parts import SgdConfig
from techniques.training.range_test import peak_learning_rate

RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6)
_ROUND_TO, _VIEWS, _CALIBRATION, _BATCH, _TIMED = 8, 2, 512, 128, 20
_SPLITS = ("selection", "test")
_SHARE = 0.9
"""Of the minutes, for training; the rest is for exporting, reading and measuring."""


@dataclass(frozen=True)
class _Data:
    data: ImageData
    training: TrainingSource

    def images(self, split: str, count: int | None = None) -> np.ndarray[Any, Any]:
        """Prepared images ``(n, 1, 28, 28)``."""
        view = self.data.split(split)  # type: ignore[arg-type]
        return view.images(np.arange(len(view) if count is None else min(count, len(view)))).numpy()


def by_hand(subject: Subject, seconds: float, seed: int) -> Row:
    """Each ratio's network as an int8 file: speed-up, size ratio, and points lost on both splits."""
    began = time.monotonic()
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        given = _opened(subject, Path(folder), seed)
        original = from_module(subject.network, (1, 28, 28))
        files = {"original": to_onnx(original)}
        # As a search does it: decided once, on the original.
        dtype, _ = fastest_step(original, torch.from_numpy(given.images("train", _BATCH)), "classes")
        for index, ratio in enumerate(RATIOS):
            left_s = seconds * _SHARE - (time.monotonic() - began)
            network = _distilled(_pruned(subject.network, ratio), given, left_s / (len(RATIOS) - index), seed, dtype)
            files[str(ratio)] = _int8(to_onnx(network), given, Path(folder))
        measured = measure_latency(files, threads=1)
        accuracy = {name: _accuracies(file, given) for name, file in files.items()}
    rows = [
        {
            "ratio": ratio,
            "speed_up": measured["original"].value_ms / measured[str(ratio)].value_ms,
            "size_ratio": len(files["original"]) / len(files[str(ratio)]),
            **{f"{split}_drop_points": 100 * (accuracy["original"][split] - accuracy[str(ratio)][split]) for split in _SPLITS},
        }
        for ratio in RATIOS
    ]
    return {"networks": rows, "duration_s": round(time.monotonic() - began, 1)}


def _opened(subject: Subject, folder: Path, seed: int) -> _Data:
    with np.load(subject.data) as found:
        split = np.array([SPLITS.index(name) for name in found["split"]], dtype=np.uint8)
        tensors = DatasetTensors(found["images"][..., None], split, found["labels"].astype(np.int64))
    how = Preprocessing(height=28, width=28, channels=1, mean=(subject.mean,), std=(subject.std,))
    write(folder / "data", tensors, DatasetMetadata(how, augment="shift_flip"))
    data = ImageData.open(folder / "data")
    source, network = TrainingSource(data.split("train"), seed, "shift_flip", None, _VIEWS), subject.network.eval()
    with torch.no_grad():
        write_teacher_logits(network, source, folder / "teacher.npy")
    taught = TrainingSource(data.split("train"), seed, "shift_flip", open_teacher_logits(folder / "teacher.npy"), _VIEWS)
    return _Data(data, taught)


def _pruned(network: nn.Module, ratio: float) -> nn.Module:
    """So many of the channels of every layer are gone, by the L2 norm of their groups."""
    import copy

    module, example = copy.deepcopy(network), torch.zeros(1, 1, 28, 28)
    (classifier,) = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    how = {"pruning_ratio": ratio, "ignored_layers": [classifier], "round_to": _ROUND_TO}
    tp.pruner.BasePruner(module, example, importance=importance, **how).step()
    return module.eval()


def _distilled(module: nn.Module, given: _Data, seconds: float, seed: int, dtype: str) -> Network:
    network, context = from_module(module, (1, 28, 28)), TechniqueContext(seed=seed, training_dtype=dtype)
    began, defaults = time.monotonic(), DistillationConfig()
    terms = (SoftTargets(defaults.temperature, defaults.alpha, "classes"),)
    rate = peak_learning_rate(network, given.training, Training(terms, (), SgdConfig(1.0, defaults.weight_decay)), context)
    training = Training(terms, (), SgdConfig(rate, defaults.weight_decay))
    started = time.monotonic()
    fit(network, given.training, TrainingEffort((0,), _BATCH, last_steps=_TIMED), training, context)
    step_s = (time.monotonic() - started) / _TIMED
    steps = max(1, int((seconds - (time.monotonic() - began)) / step_s))
    return fit(network, given.training, TrainingEffort((0,), _BATCH, last_steps=steps), training, context).eval()


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: np.ndarray[Any, Any], name: str) -> None:
        self._batches: Iterator[dict[str, Any]] = iter([{name: images[index : index + 1]} for index in range(len(images))])

    def get_next(self) -> dict[str, Any] | None:
        """The next image."""
        return next(self._batches, None)


def _int8(file: bytes, given: _Data, folder: Path) -> bytes:
    """Static quantisation, as the runtime's own documentation says: per channel, unsigned activations, pre-processed."""
    import onnx

    plain, prepared, quantized = folder / "plain.onnx", folder / "prepared.onnx", folder / "int8.onnx"
    plain.write_bytes(file)
    quant_pre_process(str(plain), str(prepared))
    name = onnx.load(str(prepared)).graph.input[0].name
    quantize_static(
        str(prepared),
        str(quantized),
        _Calibration(given.images("train", _CALIBRATION), name),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=get_target("cpu-ort-1t").reduced_weight_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return quantized.read_bytes()


def _accuracies(file: bytes, given: _Data) -> dict[str, float]:
    found = {}
    for split in _SPLITS:
        labels = given.data.split(split).labels  # type: ignore[arg-type]
        found[split] = float((run_classifier(file, given.images(split), threads=2).argmax(1) == labels).mean())
    return found


def main() -> None:
    """``python -m benchmarks.by_hand SECONDS SEED``: its row as JSON."""
    from benchmarks.open_space_best import subject

    print(json.dumps(by_hand(subject(), float(sys.argv[1]), int(sys.argv[2]))))


if __name__ == "__main__":
    main()
