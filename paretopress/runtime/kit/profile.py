"""What every node of a model takes in the runtime, by the runtime's own profiler."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from paretopress.runtime.measure import pinned
from paretopress.runtime.session import ModelFile, input_spec, random_input, session_options

PROFILED_RUNS = 16
_KEPT_SHARE = 0.5
_END = "_kernel_time"
# What the optimiser appends to the name of a node that it replaces.
_SUFFIXES = re.compile(r"(_token_\d+|_nchwc|_fusion_\w+)+$")


@dataclass(frozen=True)
class NodeTime:
    """One node as the runtime ran it.

    Attributes:
        name: of the node; where the optimiser made it from others, of one of those, else its type.
        op_type: after optimisation, such as ``QLinearConv`` or ``ReorderInput``.
        blocked: whether it runs in the runtime's blocked layout.
        input_shapes, output_shapes: as run; weights that were packed in advance are not among them.
        input_types, output_types: ONNX element types, one for each shape.
        us: microseconds, the mean of the quicker half of the runs; the profiler counts whole ones.
    """

    name: str
    op_type: str
    blocked: bool
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    us: float


def profile_nodes(model: ModelFile, threads: int, optimization: str = "all", runs: int = PROFILED_RUNS) -> list[NodeTime]:
    """Nodes in execution order with their times at batch 1, from ``runs`` runs after a warm-up.

    Raises:
        RuntimeModelError: the model does not load or has no single image input.
    """
    with tempfile.TemporaryDirectory(prefix="paretopress-profile-") as folder, pinned(threads):
        options = session_options(threads, optimization)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        source = model if isinstance(model, bytes) else str(model)
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        spec = input_spec(session)
        feed = {spec.name: random_input(spec, 1)}
        for _ in range(runs + 2):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    return _node_times([e for e in events if e.get("cat") == "Node" and e["name"].endswith(_END)], runs)


def _node_times(events: Sequence[Mapping[str, Any]], runs: int) -> list[NodeTime]:
    times: dict[str, list[int]] = defaultdict(list)
    first: dict[str, Mapping[str, Any]] = {}
    for event in events:
        key = event["args"]["node_index"] + event["name"]
        first.setdefault(key, event)
        times[key].append(event["dur"])
    return [_node_time(event, times[key][-runs:]) for key, event in first.items()]


def _node_time(event: Mapping[str, Any], times: Sequence[int]) -> NodeTime:
    arguments = event["args"]
    quicker = sorted(times)[: max(1, round(_KEPT_SHARE * len(times)))]
    full_name = event["name"].removesuffix(_END)
    name = _SUFFIXES.sub("", full_name)
    return NodeTime(
        name=name.removeprefix("fused ").removesuffix(".q") or arguments["op_name"],
        op_type=arguments["op_name"],
        blocked="_nchwc" in full_name or arguments["op_name"].startswith("Reorder"),
        input_shapes=_shapes(arguments["input_type_shape"]),
        output_shapes=_shapes(arguments["output_type_shape"]),
        input_types=_types(arguments["input_type_shape"]),
        output_types=_types(arguments["output_type_shape"]),
        us=statistics.fmean(quicker),
    )


def _shapes(entries: Sequence[Mapping[str, Sequence[int]]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(shape) for entry in entries for shape in entry.values())


def _types(entries: Sequence[Mapping[str, Sequence[int]]]) -> tuple[str, ...]:
    return tuple(kind for entry in entries for kind in entry)
