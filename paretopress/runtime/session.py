"""ONNX Runtime sessions as Paretopress runs them: fixed threads, every optimisation, nothing left spinning. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

ModelFile = bytes | Path

_NUMPY_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}
_OPTIMIZATION_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class RuntimeModelError(Exception):
    """A model file that cannot be run or timed as asked; the message says what to change."""


@dataclass(frozen=True)
class InputSpec:
    """The one input of a model: a dimension is None where the file leaves it free."""

    name: str
    shape: tuple[int | None, ...]
    numpy_type: type[np.generic]

    @property
    def fixed_batch(self) -> int | None:
        """The batch that the file demands, None where any batch runs."""
        return self.shape[0]


def open_session(model: ModelFile, threads: int, optimization: str = "all") -> ort.InferenceSession:
    """A new session on the CPU with ``threads`` pinned intra-op threads and sequential execution.

    Worker threads stop spinning when a run ends, so that a waiting session takes no time from another one.

    Raises:
        RuntimeModelError: the file does not load, or ``threads`` or ``optimization`` is none that exists.
    """
    options = session_options(threads, optimization)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen types without a common root of its own
        where = "the model" if isinstance(model, bytes) else str(model)
        raise RuntimeModelError(f"ONNX Runtime {ort.__version__} cannot load {where}: {error}") from error


def session_options(threads: int, optimization: str = "all") -> ort.SessionOptions:
    """The options that every session of ours has.

    Raises:
        RuntimeModelError: ``threads`` or ``optimization`` is none that exists.
    """
    if threads < 1:
        raise RuntimeModelError(f"threads must be at least 1, got {threads}")
    if optimization not in _OPTIMIZATION_LEVELS:
        raise RuntimeModelError(f"optimization must be one of {sorted(_OPTIMIZATION_LEVELS)}, got {optimization!r}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = _OPTIMIZATION_LEVELS[optimization]
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def input_spec(session: ort.InferenceSession) -> InputSpec:
    """The model's input.

    Raises:
        RuntimeModelError: the model has not exactly one input of a numeric type that images come in.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise RuntimeModelError(
            f"the model has {len(inputs)} inputs ({[i.name for i in inputs]}), exactly one image input is needed"
        )
    numpy_type = _NUMPY_TYPES.get(inputs[0].type)
    if numpy_type is None:
        raise RuntimeModelError(f"input {inputs[0].name!r} has type {inputs[0].type}, known are {sorted(_NUMPY_TYPES)}")
    if not inputs[0].shape:
        raise RuntimeModelError(f"input {inputs[0].name!r} has no dimensions, a batch of images is needed")
    shape = tuple(d if isinstance(d, int) and d > 0 else None for d in inputs[0].shape)
    return InputSpec(inputs[0].name, shape, numpy_type)


def random_input(spec: InputSpec, batch: int, seed: int = 0) -> npt.NDArray[np.generic]:
    """A standard normal (uniform, for integers) input at the given batch size.

    Raises:
        RuntimeModelError: the file demands another batch, or leaves height, width or channels free.
    """
    if spec.fixed_batch not in (None, batch):
        raise RuntimeModelError(f"input {spec.name!r} is fixed to batch {spec.fixed_batch}, asked for {batch}")
    if None in spec.shape[1:]:
        raise RuntimeModelError(
            f"input {spec.name!r} has the shape {spec.shape}: only the batch may be free where latency is measured"
        )
    shape = (batch, *(int(d) for d in spec.shape[1:] if d is not None))
    generator = np.random.default_rng(seed)
    if np.issubdtype(spec.numpy_type, np.integer):
        return generator.integers(0, 127, shape).astype(spec.numpy_type)
    return generator.standard_normal(shape, dtype=np.float32).astype(spec.numpy_type)


def run_classifier(
    model: ModelFile, images: npt.NDArray[np.generic], batch: int = 64, threads: int = 1, optimization: str = "all"
) -> npt.NDArray[np.float32]:
    """Logits ``(n, outputs)`` of images ``(n, channels, height, width)``, batch by batch; the order is kept.

    Where the file fixes its batch, that one is used and the last batch is filled up with repeated images.

    Raises:
        RuntimeModelError: no images, a batch below 1, or a model that does not load or does not take these images.
    """
    if len(images) == 0 or batch < 1:
        raise RuntimeModelError(f"at least one image and a batch of at least 1 are needed, got {len(images)} images, batch {batch}")
    session = open_session(model, threads, optimization)
    spec = input_spec(session)
    step = spec.fixed_batch or batch
    logits: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(images), step):
        part = images[start : start + step].astype(spec.numpy_type, copy=False)
        count = len(part)
        if spec.fixed_batch and count < step:
            part = np.concatenate([part, np.repeat(part[-1:], step - count, axis=0)])
        try:
            output = session.run(None, {spec.name: part})[0]
        except Exception as error:  # as in open_session
            raise RuntimeModelError(f"the model does not run on images of shape {part.shape}: {error}") from error
        logits.append(np.asarray(output, dtype=np.float32)[:count])
    return np.concatenate(logits)
