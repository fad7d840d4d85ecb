from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hw_models.end_to_end import fit_end_to_end, sums
from hw_models.errors import PredictorFormatError
from hw_models.fitting import graph_of, quiet_nodes, repeatable
from hw_models.graph import Operator, OperatorGraph
from hw_models.kernel_times import KernelTimes, fit_kernel_times
from hw_models.kernels import Kernel, kernels
from hw_models.predictor import CalibrationSummary, Predictor
from hw_models.residual import Residual
from hw_models.transfer import transferred
from paretopress.runtime.kit.profile import NodeTime
from paretopress.runtime.kit.samples import KitSample
from tests.hw_models.made_up import TARGET, kernel_us, latency_ms, mean_error, networks, timed

SEEN, UNSEEN = slice(0, 120), slice(120, 160)
NODE = NodeTime("conv", "Conv", True, (), (), (), (), 100.0)


def fitted(speed: float = 1.0, count: int = 120) -> Predictor:
    """A predictor of the made-up machine."""
    nets = networks(160)[:count]
    times = fit_kernel_times([timed(n, speed) for n in nets], 1)
    run = [kernels(graph_of(KitSample(n)), TARGET) for n in nets]
    rows = [sums(r, times.ms(r)) for r in run]
    return Predictor(TARGET, times, fit_end_to_end(rows, [latency_ms(n, speed) for n in nets]), {"fp32": 0.1, "int8": 0.2})


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return fitted()


def test_networks_that_were_not_seen_are_predicted(predictor: Predictor) -> None:
    nets = networks(160)[UNSEEN]
    predicted = [predictor.predict(graph_of(KitSample(n))).value_ms for n in nets]
    assert mean_error(predicted, [latency_ms(n) for n in nets]) < 0.06


def test_the_trees_learn_what_no_roofline_knows(predictor: Predictor) -> None:
    run = [k for n in networks(160)[UNSEEN] for k in kernels(graph_of(KitSample(n)), TARGET) if k.macs > 1e5]
    truth = [kernel_us(k) + 1.5 for k in run]
    plain = KernelTimes(1, predictor.times.coefficients_ns)
    assert mean_error([ms * 1000 for ms in predictor.times.ms(run)], truth) < 0.6 * mean_error(
        [ms * 1000 for ms in plain.ms(run)], truth
    )


def test_coefficients_are_never_negative_and_no_kernel_is_free(predictor: Predictor) -> None:
    assert min(c for row in predictor.times.coefficients_ns.values() for c in row) >= 0
    assert min(ms for n in networks(160)[UNSEEN] for ms in predictor.times.ms(kernels(graph_of(KitSample(n)), TARGET))) > 0


def test_a_busy_moment_does_not_lead_the_fit_astray() -> None:
    nets = networks(160)[SEEN]
    disturbed = [[replace(t, us=4 * t.us) for t in timed(n)] if i % 12 == 0 else timed(n) for i, n in enumerate(nets)]
    times = fit_kernel_times(disturbed, 1)
    run = [k for n in networks(160)[UNSEEN] for k in kernels(graph_of(KitSample(n)), TARGET)]
    assert np.median([abs(1000 * ms / (kernel_us(k) + 1.5) - 1) for k, ms in zip(run, times.ms(run), strict=True)]) < 0.1


def test_a_neighbour_makes_a_few_networks_enough(predictor: Predictor) -> None:
    """A machine 1.7 times as fast, seen through 12 networks."""
    few = [timed(n, 1.7) for n in networks(160)[:12]]
    run = [k for n in networks(160)[UNSEEN] for k in kernels(graph_of(KitSample(n)), TARGET)]
    truth = [(kernel_us(k) + 1.5) / 1.7 for k in run]
    scaled = mean_error([1000 * ms for ms in transferred(predictor.times, few, 1).ms(run)], truth)
    assert scaled < 0.1
    assert scaled < 0.7 * mean_error([1000 * ms for ms in fit_kernel_times(few, 1).ms(run)], truth)


def test_int8_networks_take_their_own_interval(predictor: Predictor) -> None:
    float_width, int8_width = (
        predictor.predict(graph_of(KitSample(n))).high_ms / predictor.predict(graph_of(KitSample(n))).value_ms
        for n in networks(160)[:2]
    )
    assert float_width == pytest.approx(np.exp(0.1))
    assert int8_width == pytest.approx(np.exp(0.2))


def test_unknown_kernels_cost_something_are_named_and_widen_the_interval(predictor: Predictor) -> None:
    known = graph_of(KitSample(networks(160)[0]))
    shape = (1, 64, 28, 28)
    strange = Operator("strange", "other:erfinv", (known.operators[-1].name,), (shape,), shape)
    before = predictor.predict(known)
    after = predictor.predict(OperatorGraph((*known.operators, strange), known.input_shape))
    assert after.unknown == ("other:erfinv.fp32.plain",)
    assert after.value_ms > before.value_ms
    assert after.high_ms / after.value_ms > before.high_ms / before.value_ms


def test_a_format_that_was_never_measured_widens_the_interval(predictor: Predictor) -> None:
    known = graph_of(KitSample(networks(160)[1]))
    assert any(op.weight_bits == 8 for op in known.operators)
    packed = tuple(replace(op, weight_bits=4) if op.weight_bits == 8 else op for op in known.operators)
    before, after = predictor.predict(known), predictor.predict(OperatorGraph(packed, known.input_shape))
    assert any("W4A8" in kind for kind in after.unknown)
    assert after.high_ms / after.value_ms > before.high_ms / before.value_ms


def test_an_uncalibrated_predictor_says_so() -> None:
    prediction = Predictor.uncalibrated(TARGET).predict(graph_of(KitSample(networks(160)[0])))
    assert not prediction.calibrated
    assert prediction.value_ms > 0


@pytest.mark.parametrize("summary", [CalibrationSummary(), CalibrationSummary(40, 9.5, 1.0, 40.0, 1, "onnxruntime", "x86_64")])
def test_json_round_trip(predictor: Predictor, summary: CalibrationSummary) -> None:
    stored = replace(predictor, summary=summary)
    loaded = Predictor.from_json(stored.to_json())
    assert loaded.to_json() == stored.to_json()
    graph = graph_of(KitSample(networks(160)[3]))
    assert loaded.predict(graph) == stored.predict(graph)


def test_a_transferred_predictor_is_stored_with_all_that_it_needs(predictor: Predictor) -> None:
    few = [timed(n, 1.7) for n in networks(160)[:12]]
    moved = replace(predictor, times=transferred(predictor.times, few, 1))
    loaded = Predictor.from_json(moved.to_json())
    graph = graph_of(KitSample(networks(160)[3]))
    assert loaded.to_json() == moved.to_json()
    assert loaded.predict(graph) == moved.predict(graph)
    assert loaded.calibrated


def test_corrections_catch_what_one_scale_does_not(predictor: Predictor) -> None:
    """A machine whose kernels of few channels are three times as slow, seen through 30 networks."""

    def us(kernel: Kernel) -> float:
        return kernel_us(kernel) * (3.0 if kernel.geometry[1] < 40 else 1.0) + 1.5

    few = [[replace(t, us=us(t.kernel)) for t in timed(n)] for n in networks(160)[:30]]
    run = [k for n in networks(160)[UNSEEN] for k in kernels(graph_of(KitSample(n)), TARGET)]
    moved = transferred(predictor.times, few, 1)
    truth = [us(kernel) for kernel in run]
    assert mean_error([1000 * ms for ms in moved.ms(run)], truth) < 0.5 * mean_error(
        [1000 * ms for ms in moved.scaled_ms(run)], truth
    )


def test_json_with_impossible_numbers_is_refused(predictor: Predictor) -> None:
    data = json.loads(predictor.to_json())
    data["times"]["coefficients_ns"][next(iter(data["times"]["coefficients_ns"]))][1] = -1.0
    with pytest.raises(PredictorFormatError, match="at least 0"):
        Predictor.from_json(json.dumps(data))


def test_foreign_trees_are_refused(predictor: Predictor) -> None:
    with pytest.raises(PredictorFormatError, match="trees"):
        Residual.from_text("tree\nno such model")
    data = json.loads(predictor.to_json())
    data["times"]["residuals"]["fp32"] = data["times"]["residuals"]["fp32"].replace("log_roofline", "something_else")
    with pytest.raises(PredictorFormatError, match="other features"):
        Predictor.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "latency_predictor", "version": 9, "features": []}'])
def test_foreign_json_is_refused(text: str) -> None:
    with pytest.raises(PredictorFormatError):
        Predictor.from_json(text)


def test_samples_that_do_not_repeat_are_left_out() -> None:
    network = networks(160)[0]
    steady = [KitSample(network, (1.0, 1.01, 1.5), (1.05, 1.06, 1.9)) for _ in range(30)]
    shaky = [KitSample(network, (1.0, 1.4, 1.5), (1.1, 1.9, 1.9)) for _ in range(10)]
    assert repeatable([*steady, *shaky]) == steady


def test_latencies_are_those_of_quiet_moments() -> None:
    assert KitSample(networks(160)[0], (1.0, 1.9, 2.0), (1.9, 1.05, 2.1)).quiet_ms == 1.05


@pytest.mark.parametrize("slowdown", [1.0, 1.6])
def test_a_profile_of_a_busy_moment_is_brought_down(slowdown: float) -> None:
    nodes = tuple(replace(NODE, us=us * slowdown) for us in (100.0, 300.0))
    sample = KitSample(networks(160)[0], (0.39, 0.7), (0.397, 0.72), nodes)
    assert [node.us for node in quiet_nodes(sample)] == pytest.approx([100.0, 300.0])


def test_a_profile_that_is_quicker_than_the_run_is_left_alone() -> None:
    """Overheads between nodes are the run's, not the profile's."""
    sample = KitSample(networks(160)[0], (1.0,), (1.0,), (NODE,))
    assert quiet_nodes(sample) == (NODE,)
