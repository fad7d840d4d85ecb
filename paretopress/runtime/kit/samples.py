"""Timed calibration networks: whole runs in rounds spread in time, and once every node by the runtime's profiler."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from paretopress.runtime.kit.networks import KitNetwork
from paretopress.runtime.kit.profile import NodeTime, profile_nodes
from paretopress.runtime.measure import time_round

FILL_S = 0.05
CHUNK = 9


@dataclass(frozen=True)
class KitSample:
    """A measured network: its operators, what every round found, and its nodes as they ran.

    A busy machine only ever adds time, so the lowest of turns spread in time is what can be trusted on one that others use too.

    Attributes:
        minima_ms: the quickest run of every round.
        medians_ms: the median of every round's quietest turn.
    """

    network: KitNetwork
    minima_ms: tuple[float, ...] = ()
    medians_ms: tuple[float, ...] = ()
    nodes: tuple[NodeTime, ...] = field(default=())

    @property
    def quiet_ms(self) -> float:
        """The latency: the median of the quietest turn of all, as `paretopress.runtime.measure` takes it of its reference."""
        return min(self.medians_ms)

    @property
    def disagreement(self) -> float:
        """How far the second quietest round lies above the quietest, as a fraction."""
        if len(self.minima_ms) < 2:
            return 0.0
        lowest, second = sorted(self.minima_ms)[:2]
        return second / lowest - 1

    def to_json(self) -> str:
        """One line of JSON; the network's weights are left out, for its name and seed make them again."""
        network = {k: v for k, v in asdict(self.network).items() if k != "onnx_model"}
        return json.dumps({**asdict(replace(self, network=None)), "network": network})  # type: ignore[arg-type]

    @staticmethod
    def from_json(text: str) -> KitSample:
        """Read what `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        network = data["network"]
        nodes = (
            NodeTime(
                **{
                    **node,
                    "input_shapes": tuple(tuple(s) for s in node["input_shapes"]),
                    "output_shapes": tuple(tuple(s) for s in node["output_shapes"]),
                    "input_types": tuple(node["input_types"]),
                    "output_types": tuple(node["output_types"]),
                }
            )
            for node in data["nodes"]
        )
        described = KitNetwork(
            network["name"], network["precision"], tuple(network["input_shape"]), tuple(network["operators"]), b""
        )
        return KitSample(described, tuple(data["minima_ms"]), tuple(data["medians_ms"]), tuple(nodes))


def profiled(networks: Sequence[KitNetwork], threads: int, optimization: str) -> list[KitSample]:
    """First look at new networks: their nodes, and one round."""
    samples = [KitSample(n, nodes=tuple(profile_nodes(n.onnx_model, threads, optimization))) for n in networks]
    return with_round(samples, threads, optimization)


def with_round(samples: Sequence[KitSample], threads: int, optimization: str) -> list[KitSample]:
    """The samples with one more round."""
    models = {str(index): sample.network.onnx_model for index, sample in enumerate(samples)}
    times = time_round(models, threads, optimization=optimization, fill_s=FILL_S)
    return [
        replace(
            sample,
            minima_ms=(*sample.minima_ms, float(times[str(index)].min())),
            medians_ms=(*sample.medians_ms, float(np.median(times[str(index)], axis=1).min())),
        )
        for index, sample in enumerate(samples)
    ]
