from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest

from hw_models.errors import PredictorFormatError
from hw_models.graph import Operator, OperatorGraph
from hw_models.kernels import FEATURES, kernels
from hw_models.predictor import CalibrationSummary, Predictor
from hw_models.roofline import fit_roofline, generic_coefficients_ns, summed_work
from hw_models.sampling import sample_networks
from hw_models.targets import get_target

TARGET = get_target("cpu-ort-1t")
GRAPHS = [network.graph for network in islice(sample_networks(("fp32", "int8"), 1), 90)]


def made_up_truth() -> Predictor:
    """A machine whose every kernel costs what a random roofline says."""
    generator = np.random.default_rng(0)
    signatures = {k.signature for graph in GRAPHS for k in kernels(graph, TARGET)}
    coefficients = {
        s: tuple(float(c * generator.uniform(0.3, 3)) for c in generic_coefficients_ns("fp32", 1)) for s in sorted(signatures)
    }
    return Predictor(TARGET, coefficients, 8000.0, {"fp32": 0.1, "int8": 0.2})


@pytest.fixture(scope="module")
def truth() -> Predictor:
    return made_up_truth()


def test_fit_recovers_latencies_of_networks_it_has_not_seen(truth: Predictor) -> None:
    generator = np.random.default_rng(1)
    latencies = [truth.predict(g).value_ms * generator.uniform(0.97, 1.03) for g in GRAPHS]
    fit = fit_roofline([summed_work(kernels(g, TARGET)) for g in GRAPHS[:70]], latencies[:70], 1)
    fitted = Predictor(TARGET, fit.coefficients_ns, fit.run_overhead_ns)
    errors = [abs(fitted.predict(g).value_ms / ms - 1) for g, ms in zip(GRAPHS[70:], latencies[70:], strict=True)]
    assert np.mean(errors) < 0.1


def test_fit_is_not_led_astray_by_a_busy_moment(truth: Predictor) -> None:
    latencies = [truth.predict(g).value_ms for g in GRAPHS]
    disturbed = [ms * (4 if i % 12 == 0 else 1) for i, ms in enumerate(latencies)]
    fit = fit_roofline([summed_work(kernels(g, TARGET)) for g in GRAPHS], disturbed, 1)
    fitted = Predictor(TARGET, fit.coefficients_ns, fit.run_overhead_ns)
    errors = [abs(fitted.predict(g).value_ms / ms - 1) for g, ms in zip(GRAPHS, latencies, strict=True)]
    assert np.median(errors) < 0.1


def test_coefficients_are_never_negative(truth: Predictor) -> None:
    latencies = [truth.predict(g).value_ms for g in GRAPHS]
    fit = fit_roofline([summed_work(kernels(g, TARGET)) for g in GRAPHS], latencies, 1)
    assert min(c for row in fit.coefficients_ns.values() for c in row) >= 0
    assert all(len(row) == len(FEATURES) for row in fit.coefficients_ns.values())


def test_kernels_and_the_run_sum_to_the_value(truth: Predictor) -> None:
    prediction = truth.predict(GRAPHS[0])
    assert prediction.value_ms == pytest.approx(sum(k.ms for k in prediction.kernels) + truth.run_overhead_ns / 1e6)
    assert prediction.low_ms < prediction.value_ms < prediction.high_ms
    assert prediction.unknown == ()
    assert prediction.calibrated


def test_int8_networks_take_their_own_interval(truth: Predictor) -> None:
    float_width, int8_width = (truth.predict(g).high_ms / truth.predict(g).value_ms for g in GRAPHS[:2])
    assert float_width == pytest.approx(np.exp(0.1))
    assert int8_width == pytest.approx(np.exp(0.2))


def test_unknown_kernels_cost_something_are_named_and_widen_the_interval(truth: Predictor) -> None:
    known = GRAPHS[0]
    last = known.operators[-1]
    shape = (1, 64, 28, 28)
    strange = Operator("strange", "other:erfinv", (last.name,), (shape,), shape)
    before = truth.predict(known)
    after = truth.predict(OperatorGraph((*known.operators, strange), known.input_shape))
    assert after.unknown == ("other:erfinv.fp32.plain",)
    assert after.value_ms > before.value_ms
    assert after.high_ms / after.value_ms > before.high_ms / before.value_ms


def test_an_uncalibrated_predictor_says_so() -> None:
    prediction = Predictor(TARGET).predict(GRAPHS[0])
    assert not prediction.calibrated
    assert prediction.value_ms > 0
    assert set(prediction.unknown) == {k.signature for k in kernels(GRAPHS[0], TARGET)}


@pytest.mark.parametrize("summary", [CalibrationSummary(), CalibrationSummary(40, 9.5, 1.0, 40.0, 1, "onnxruntime", "x86_64")])
def test_json_round_trip(truth: Predictor, summary: CalibrationSummary) -> None:
    stored = Predictor(TARGET, truth.coefficients_ns, truth.run_overhead_ns, truth.log_error, summary)
    loaded = Predictor.from_json(stored.to_json())
    assert loaded.to_json() == stored.to_json()
    assert loaded.predict(GRAPHS[3]) == stored.predict(GRAPHS[3])


def test_json_with_impossible_numbers_is_refused(truth: Predictor) -> None:
    data = json.loads(truth.to_json())
    data["coefficients_ns"][next(iter(data["coefficients_ns"]))][1] = -1.0
    with pytest.raises(PredictorFormatError, match="at least 0"):
        Predictor.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "latency_predictor", "version": 9, "features": []}'])
def test_foreign_json_is_refused(text: str) -> None:
    with pytest.raises(PredictorFormatError):
        Predictor.from_json(text)
