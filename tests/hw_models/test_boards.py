from __future__ import annotations

from dataclasses import replace

import pytest

from hw_models.catalogue import datasheet_targets, get_target
from hw_models.graph import Operator, OperatorGraph
from hw_models.predictor import Predictor
from hw_models.targets import Peaks, Target, builtin_targets


def small_network(bits: int = 32) -> OperatorGraph:
    """A convolution, a global pooling, a classifier."""
    attributes = {"kernel": [3, 3], "stride": [1, 1], "groups": 1}
    shapes = {"weight_bits": bits, "activation_bits": bits}
    conv = Operator(
        "conv",
        "conv",
        ("input",),
        ((1, 16, 32, 32),),
        (1, 32, 32, 32),
        (32, 16, 3, 3),
        attributes=attributes,
        has_bias=True,
        **shapes,
    )
    pool = Operator("pool", "global_avg_pool", ("conv",), ((1, 32, 32, 32),), (1, 32, 1, 1))
    linear = Operator("linear", "linear", ("pool",), ((1, 32),), (1, 10), (10, 32), has_bias=True, **shapes)
    return OperatorGraph((conv, pool, linear), (1, 16, 32, 32))


def peaks_of(target: Target) -> Peaks:
    assert target.peaks is not None
    return target.peaks


@pytest.mark.parametrize("target", datasheet_targets(), ids=lambda target: target.name)
def test_a_board_is_priced_from_its_cited_data_sheet_and_says_uncalibrated(target: Target) -> None:
    prediction = Predictor.uncalibrated(target).predict(small_network())
    assert 0 < prediction.low_ms < prediction.value_ms < prediction.high_ms
    assert not prediction.calibrated
    assert not target.attached
    assert all(cost.ms > 0 for cost in prediction.kernels)
    assert any("http" in source for source in peaks_of(target).sources)
    assert any("per_kernel_us: assumed" in source for source in peaks_of(target).sources)


@pytest.mark.parametrize("target", datasheet_targets(), ids=lambda target: target.name)
def test_a_board_has_int8_facts_only_where_it_has_int8_units(target: Target) -> None:
    has_int8 = peaks_of(target).int8_gmacs > 0
    assert has_int8 == ("int8" in target.precisions) == bool(target.integer_types)


def test_the_catalogue_is_sorted_and_hides_no_builtin_target() -> None:
    names = [target.name for target in datasheet_targets()]
    assert 8 <= len(names) == len(set(names))
    assert names == sorted(names)
    assert not set(names) & {target.name for target in builtin_targets()}
    assert get_target("raspberry-pi-5").threads == 4


def test_bigger_devices_are_faster() -> None:
    order = ("stm32h743", "raspberry-pi-4", "raspberry-pi-5", "intel-xeon-8380")
    latencies = [Predictor.uncalibrated(get_target(name)).predict(small_network()).value_ms for name in order]
    assert latencies == sorted(latencies, reverse=True)


@pytest.mark.parametrize(("weights", "activations"), [(4, 8), (2, 8), (1, 1), (8, 32)])
def test_a_format_that_the_runtime_does_not_run_is_named(weights: int, activations: int) -> None:
    graph = small_network(8)
    first, *rest = graph.operators
    packed = OperatorGraph((replace(first, weight_bits=weights, activation_bits=activations), *rest), graph.input_shape)
    predictor = Predictor.uncalibrated(get_target("raspberry-pi-5"))
    known, doubtful = predictor.predict(graph), predictor.predict(packed)
    assert any(f"W{weights}A{activations}" in kind for kind in doubtful.unknown)
    assert not any("W8A8" in kind for kind in known.unknown)


def test_a_target_without_integers_runs_none_as_such() -> None:
    target = replace(get_target("raspberry-pi-5"), precisions=("fp32",))
    assert target.formats == ((32, 32),)
    assert any("W8A8" in kind for kind in Predictor.uncalibrated(target).predict(small_network(8)).unknown)
    assert not any("W32A32" in kind for kind in Predictor.uncalibrated(target).predict(small_network()).unknown)
