from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from hw_models.calibrate import MIN_NETWORKS, Sample, calibrate, repeatable, typical_latencies_ms
from hw_models.errors import CalibrationError
from hw_models.sampling import MAX_MACS, sample_networks
from hw_models.targets import get_target
from paretopress.runtime.session import run_classifier

TARGET = get_target("cpu-ort-1t")


def test_networks_are_repeatable_and_bounded() -> None:
    first, second = (list(islice(sample_networks(("fp32", "int8"), 5), 20)) for _ in range(2))
    assert [n.onnx_model for n in first] == [n.onnx_model for n in second]
    assert all(0 < n.graph.macs() <= MAX_MACS for n in first)
    assert {n.name.split("-")[1] for n in first} == {"fp32", "int8"}


def test_both_descriptions_have_the_same_shapes() -> None:
    for network in islice(sample_networks(("fp32", "int8"), 2), 18):
        images = np.zeros(network.graph.input_shape, np.float32)
        assert run_classifier(network.onnx_model, images).shape == network.graph.operators[-1].output_shape


def test_short_calibration_predicts_and_reports_progress() -> None:
    seen: list[float] = []
    predictor = calibrate(TARGET, 120.0, seed=3, progress=lambda fraction, line: seen.append(fraction), max_networks=27)
    assert seen[-1] == 1.0
    assert all(0 <= fraction <= 1 for fraction in seen)
    assert MIN_NETWORKS <= predictor.summary.networks <= 27
    assert set(predictor.log_error) == {"fp32", "int8"}
    small, large = (n.graph for n in sorted(islice(sample_networks(("fp32",), 9), 9), key=lambda n: n.graph.macs())[::8])
    assert 0 < predictor.predict(small).value_ms < predictor.predict(large).value_ms


def test_a_target_elsewhere_cannot_be_calibrated_here() -> None:
    with pytest.raises(CalibrationError, match="not attached"):
        calibrate(replace(TARGET, name="board", attached=False))


def test_too_few_networks_are_said() -> None:
    with pytest.raises(CalibrationError, match="raise max_networks"):
        calibrate(TARGET, 5.0, max_networks=3)


def test_samples_that_do_not_repeat_are_left_out() -> None:
    graph = next(sample_networks(("fp32",), 0)).graph
    steady = [Sample(graph, [1.0, 1.01, 1.5], [1.05, 1.06, 1.9]) for _ in range(30)]
    shaky = [Sample(graph, [1.0, 1.4, 1.5], [1.1, 1.9, 1.9]) for _ in range(10)]
    assert repeatable([*steady, *shaky]) == steady
    assert typical_latencies_ms(steady) == pytest.approx([1.05] * 30, rel=0.01)
