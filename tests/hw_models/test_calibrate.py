from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from hw_models.adaptive import cell_of, choose
from hw_models.calibrate import calibrate
from hw_models.errors import CalibrationError
from hw_models.fitting import MIN_NETWORKS, graph_of
from hw_models.kernels import kernels
from hw_models.targets import get_target
from paretopress.runtime.kit.samples import KitSample, profiled
from paretopress.runtime.kit.sampling import sample_networks

TARGET = get_target("cpu-ort-1t")


def test_short_calibration_predicts_and_reports_progress() -> None:
    seen: list[float] = []
    predictor = calibrate(TARGET, 24.0, seed=3, progress=lambda fraction, line: seen.append(fraction), max_networks=24)
    assert seen[-1] == 1.0
    assert all(0 <= fraction <= 1 for fraction in seen)
    assert seen == sorted(seen)
    assert MIN_NETWORKS <= predictor.summary.networks <= 24
    assert set(predictor.log_error) == {"fp32", "int8"}
    assert predictor.summary.duration_s > 0
    networks = sorted(islice(sample_networks(("fp32",), 9), 9), key=lambda n: graph_of(KitSample(n)).macs())
    small, large = (graph_of(KitSample(n)) for n in networks[::8])
    assert 0 < predictor.predict(small).value_ms < predictor.predict(large).value_ms


def test_the_next_networks_are_those_of_kernels_not_seen_yet() -> None:
    plain = [n for n in islice(sample_networks(("fp32",), 0), 30) if n.name.startswith(("residual", "plain"))]
    pool = list(islice(sample_networks(("fp32",), 1), 30))
    seen = profiled(plain, TARGET.threads, TARGET.optimization)
    chosen = choose(pool, seen, TARGET, 6)
    known = {cell_of(k) for s in seen for k in kernels(graph_of(s), TARGET)}

    def share_unseen(networks: list[object]) -> float:
        cells = [cell_of(k) for n in networks for k in kernels(graph_of(KitSample(n)), TARGET)]  # type: ignore[arg-type]
        return sum(cell not in known for cell in cells) / len(cells)

    assert len(chosen) == 6
    assert share_unseen(chosen) > share_unseen(pool)  # type: ignore[arg-type]


def test_a_target_elsewhere_cannot_be_calibrated_here() -> None:
    with pytest.raises(CalibrationError, match="not attached"):
        calibrate(replace(TARGET, name="board", attached=False))


def test_too_few_networks_are_said() -> None:
    with pytest.raises(CalibrationError, match="raise max_networks"):
        calibrate(TARGET, 5.0, max_networks=3)
