from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import pytest

from hw_models.targets import get_target
from paretopress.runtime.kit.sampling import sample_networks
from search.conclusion import noise_warning
from search.evaluation.latency import LatencyError, LatencyResult, measure_candidates
from search.protocols import Measurement

TARGET = get_target("cpu-ort-1t")
NETWORKS = sorted(islice(sample_networks(("fp32",), 9), 18), key=lambda n: sum(math.prod(op["output_shape"]) for op in n.operators))
MODELS = {"large": NETWORKS[-1].onnx_model, "small": NETWORKS[0].onnx_model}


def test_candidates_are_measured_in_a_process_of_their_own() -> None:
    results = measure_candidates(MODELS, TARGET, "large", limit_s=5)
    assert set(results) == set(MODELS)
    small, large = results["small"], results["large"]
    assert 0 < small.measurement.value < large.measurement.value
    for result in results.values():
        assert result.measurement.source == "measured"
        assert result.measurement.rounds == len(result.round_medians_ms) >= 5
        assert result.measurement.spread > 0
        assert result.upper_bound_ms == pytest.approx(result.measurement.value + result.measurement.spread)
    assert small.drift_percent == large.drift_percent


def test_a_file_that_does_not_run_is_named() -> None:
    with pytest.raises(LatencyError, match="cannot load broken"):
        measure_candidates({**MODELS, "broken": b"nothing"}, TARGET, "large")


def test_the_reference_must_be_there() -> None:
    with pytest.raises(LatencyError, match="none of the models"):
        measure_candidates(MODELS, TARGET, "original")


def test_a_target_elsewhere_is_never_measured() -> None:
    with pytest.raises(LatencyError, match="only be predicted"):
        measure_candidates(MODELS, replace(TARGET, name="board", attached=False), "large")


def test_a_machine_that_was_never_quiet_is_told() -> None:
    quiet = LatencyResult(Measurement(1.0, "measured", 0.02, 3), 1.02, (1.0, 1.0, 1.01), 1.0, noisy=False)
    assert noise_warning({"baseline": quiet, "c0001": quiet}) == ""
    warning = noise_warning({"baseline": replace(quiet, drift_percent=34.6), "c0001": replace(quiet, noisy=True)})
    assert "drifted by 35%" in warning
    assert "those of c0001 did not settle in 3 rounds" in warning
    assert "measure again" in warning
