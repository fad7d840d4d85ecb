from __future__ import annotations

import subprocess
import sys
from itertools import islice

import numpy as np
import onnx
import pytest

from paretopress.runtime.kit.networks import KitNetwork
from paretopress.runtime.kit.profile import profile_nodes
from paretopress.runtime.kit.samples import KitSample, profiled, with_round
from paretopress.runtime.kit.sampling import MAX_MACS, sample_networks
from paretopress.runtime.session import run_classifier

NETWORKS = list(islice(sample_networks(("fp32", "int8"), 5), 30))


def macs(network: KitNetwork) -> int:
    return sum(int(np.prod(op["output_shape"]) * np.prod(op["weight_shape"][1:])) for op in network.operators if op["weight_shape"])


def test_networks_are_repeatable_from_any_start_and_bounded() -> None:
    again = list(islice(sample_networks(("fp32", "int8"), 5, start=10), 20))
    assert [n.onnx_model for n in again] == [n.onnx_model for n in NETWORKS[10:]]
    assert all(0 < macs(n) <= MAX_MACS for n in NETWORKS)
    assert {n.precision for n in NETWORKS} == {"fp32", "int8"}


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
def test_files_are_sound_and_shaped_as_described(network: KitNetwork) -> None:
    onnx.checker.check_model(onnx.load_from_string(network.onnx_model), full_check=True)
    images = np.zeros(network.input_shape, np.float32)
    assert run_classifier(network.onnx_model, images).shape == tuple(network.operators[-1]["output_shape"])


def test_the_profile_knows_every_node_once() -> None:
    nodes = profile_nodes(NETWORKS[0].onnx_model, threads=1, runs=3)
    names = [node.name for node in nodes if not node.op_type.startswith("Reorder")]
    assert len(set(names)) == len(names)
    assert all(node.us > 0 for node in nodes)
    assert nodes[-1].op_type == "Gemm"


def test_samples_survive_a_line_of_json() -> None:
    (sample,) = with_round(profiled(NETWORKS[:1], 1, "all"), 1, "all")
    assert len(sample.minima_ms) == len(sample.medians_ms) == 2
    read = KitSample.from_json(sample.to_json())
    assert (read.nodes, read.minima_ms, read.network.name) == (sample.nodes, sample.minima_ms, sample.network.name)


def test_the_kit_needs_onnxruntime_and_numpy_only() -> None:
    code = "import sys, paretopress.runtime.kit.samples, paretopress.runtime.kit.sampling; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"onnx", "torch", "scipy", "lightgbm", "hw_models"} & set(loaded)
