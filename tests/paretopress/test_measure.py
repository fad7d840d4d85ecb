from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paretopress.runtime import measure
from paretopress.runtime.kit.sampling import sample_networks
from paretopress.runtime.measure import RuntimeModelError, measure_latency, run_classifier, time_round

NETWORKS = sorted(islice(sample_networks(("fp32",), 9), 18), key=lambda n: sum(math.prod(op["output_shape"]) for op in n.operators))
SMALL, LARGE = NETWORKS[0].onnx_model, NETWORKS[-1].onnx_model
QUICK = {"rounds": 3, "runs_per_round": 24, "pause_s": 0.0, "limit_s": 0.0}


def flat_classifier(batch: int | str) -> bytes:
    """Logits are the image's pixels times a fixed matrix; input ``(batch, 1, 2, 2)``."""
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def test_larger_networks_take_longer_and_carry_their_doubt() -> None:
    result = measure_latency({"small": SMALL, "large": LARGE}, 1, **QUICK)
    small, large = result["small"], result["large"]
    assert 0 < small.value_ms < large.value_ms
    for one in (small, large):
        assert one.rounds == len(one.round_medians_ms) == 3
        assert one.spread_ms > 0
        assert one.upper_bound_ms == pytest.approx(one.value_ms + one.spread_ms)
        assert one.value_ms == pytest.approx(one.ratio * small.value_ms)
        assert one.low_quantile_ms <= one.value_ms
        assert one.runs_per_round == 24


def test_every_round_opens_new_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real = measure.open_session
    monkeypatch.setattr(
        measure, "open_session", lambda model, threads, level: opened.append(threads) or real(model, threads, level)
    )
    measure_latency({"a": SMALL, "b": SMALL}, 2, **QUICK | {"rounds": 4})
    assert opened == [2] * 8


def test_models_take_as_many_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    real = measure._Timer.turn
    monkeypatch.setattr(measure._Timer, "turn", lambda self: turns.append(id(self)) or real(self))
    times = time_round({"a": SMALL, "b": LARGE}, 1)
    assert [len(t) for t in times.values()] == [measure.TURNS] * 2
    assert all(t.size >= 24 for t in times.values())
    assert turns == turns[:2] * measure.TURNS
    assert turns[0] != turns[1]


def scripted(monkeypatch: pytest.MonkeyPatch, slowness: Iterator[Sequence[float]], other: Sequence[float] = (2.0,)) -> None:
    """Replace the clock: how slow the machine is in each turn of each round, and how many times as long the other model takes."""

    ratios = cycle(other)

    def turns(models: object, *rest: object) -> dict[str, np.ndarray]:
        slow = np.repeat(np.asarray(next(slowness))[:, None], 3, axis=1)
        return {"ref": slow, "other": slow * next(ratios)}

    monkeypatch.setattr(measure, "time_round", turns)


def measured(**options: Any) -> dict[str, measure.LatencyMeasurement]:
    return measure_latency({"ref": b"", "other": b""}, 1, reference="ref", pause_s=0, **options)


def test_what_slows_all_models_alike_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    rounds = (random.choice([1.0, 1.7, 2.2], 8, p=[0.3, 0.4, 0.3]) if random.random() < 0.5 else np.ones(8) for _ in count())
    scripted(monkeypatch, (turns * random.normal(1, 0.005, 8) for turns in rounds))
    result = measured()
    assert result["other"].value_ms == pytest.approx(2.0, rel=0.02)
    assert result["ref"].value_ms == pytest.approx(1.0, rel=0.02)
    assert not result["other"].noisy
    assert result["other"].drift_percent > 20


def test_a_quiet_machine_takes_the_least_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "LEAST_S", 0.0)
    scripted(monkeypatch, cycle([np.ones(8), np.full(8, 1.01)]))
    assert measured(rounds=4)["other"].rounds == 4


def test_rounds_are_spread_over_more_than_a_busy_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=lambda: now_s[0], sleep=sleep))
    scripted(monkeypatch, repeat(np.ones(8)))
    result = measure_latency({"ref": b"", "other": b""}, 1, rounds=3, pause_s=2.5, limit_s=60.0)
    assert result["other"].rounds == 6, "the sixth begins after 12.5 s"
    assert measured(rounds=3, limit_s=0.0)["other"].rounds == 3, "where there is no more time, the least rounds decide"


def bimodal(monkeypatch: pytest.MonkeyPatch, seed: int, busy_share: float = 0.75) -> None:
    """As it was seen: most of the time a float network takes 1.25 times as long, and the same one in int8 1.6 times."""
    random = np.random.default_rng(seed)
    busy = False

    def turns(models: object, *rest: object) -> dict[str, np.ndarray]:
        nonlocal busy
        states = []
        for _ in range(8):
            busy = random.random() < busy_share if random.random() < 0.5 else busy
            states.append([busy])
        noise = {name: 1 + random.gamma(4, 0.01, (8, 40)) for name in ("ref", "other")}
        slow = np.asarray(states)
        return {
            "ref": np.where(slow, 1.25, 1.0) * noise["ref"],
            "other": 0.5 * np.where(slow, 1.6, 1.0) * noise["other"],
        }

    monkeypatch.setattr(measure, "time_round", turns)


def test_what_slows_one_model_more_than_the_other_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bimodal(monkeypatch, seed=1)
    result = measured()
    assert result["other"].ratio == pytest.approx(0.5, rel=0.02)
    assert result["ref"].value_ms == pytest.approx(1.035, rel=0.02), "what a quiet turn takes, not its very quickest run"
    assert not result["other"].noisy


@pytest.mark.parametrize(("busy_share", "width"), [(0.5, 0.05), (0.9, 0.5)], ids=["half", "nearly always"])
def test_the_interval_holds_what_a_quiet_machine_takes(monkeypatch: pytest.MonkeyPatch, busy_share: float, width: float) -> None:
    inside, widths = [], []
    for seed in range(40):
        bimodal(monkeypatch, seed, busy_share)
        one = measured(rounds=8, limit_s=0.0)["other"]
        inside.append(abs(one.value_ms - 0.5 * 1.035) <= one.spread_ms)
        widths.append(one.spread_ms / one.value_ms)
    assert np.mean(inside) >= 0.9
    assert np.median(widths) < width, "as narrow as what was seen allows"


def test_noise_that_stays_adds_rounds_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    quicker_and_quicker = [3 * 0.93**index for index in range(measure.MAX_ROUNDS)]
    scripted(monkeypatch, repeat(np.ones(8)), quicker_and_quicker)
    assert measured(rounds=3, limit_s=0.0)["other"].rounds == 3
    scripted(monkeypatch, repeat(np.ones(8)), quicker_and_quicker)
    result = measured(rounds=3, limit_s=60.0)
    assert result["other"].rounds == measure.MAX_ROUNDS
    assert result["other"].noisy
    assert not result["ref"].noisy


def test_three_rounds_apart_leave_more_doubt_than_their_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, repeat(np.ones(8)), [2.00, 2.04, 2.08])
    result = measured(rounds=3, limit_s=0.0)["other"]
    assert result.value_ms == pytest.approx(2.00)
    assert 4.303 * 0.04 / 2.04 * 2.00 / 3**0.5 < result.spread_ms < 0.12, "no less than by Student's t of the rounds"
    assert result.upper_bound_ms == pytest.approx(result.value_ms + result.spread_ms)


def test_threads_are_given_back() -> None:
    os = pytest.importorskip("os")
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("no thread affinity on this system")
    before = os.sched_getaffinity(0)
    time_round({"a": SMALL}, 1, runs_per_round=4)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("models", "options", "says"),
    [
        ({}, {}, "no model"),
        ({"a": SMALL}, {"rounds": 2}, "at least 3"),
        ({"a": SMALL}, {"reference": "b"}, "none of the models"),
        ({"a": SMALL}, {"batch": 4, "runs_per_round": 4}, "fixed to batch 1"),
        ({"a": b"no model"}, {}, "cannot load"),
        ({"a": SMALL}, {"optimization": "most"}, "optimization must be"),
    ],
    ids=["empty", "rounds", "reference", "batch", "garbage", "level"],
)
def test_what_cannot_be_measured_is_said(models: dict[str, bytes], options: dict[str, object], says: str) -> None:
    with pytest.raises(RuntimeModelError, match=says):
        measure_latency(models, 1, **options)


@pytest.mark.parametrize("batch", ["n", 1, 4], ids=["free", "one", "four"])
def test_classifier_keeps_order_at_any_batch(batch: int | str) -> None:
    images = np.random.default_rng(0).standard_normal((10, 1, 2, 2), dtype=np.float32)
    logits = run_classifier(flat_classifier(batch), images, batch=3)
    expected = images.reshape(10, 4) @ np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(RuntimeModelError, match="does not run on images of shape"):
        run_classifier(flat_classifier("n"), np.zeros((2, 3, 2, 2), np.float32))


def test_command_line_prints_json_and_needs_two_packages_only(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(SMALL)
    script = (
        "import sys, paretopress.runtime.measure as m\n"
        f"code = m.main([{str(path)!r}, '--rounds', '3', '--runs-per-round', '24', '--pause-s', '0', '--limit-s', '0'])\n"
        "assert not {'torch', 'ray', 'mlflow', 'onnx', 'grpc', 'scipy'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)[str(path)]
    assert result["value_ms"] > 0
    assert result["threads"] == 1


def test_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure.main([str(tmp_path / "none.onnx")]) == 2
    assert "none.onnx" in capsys.readouterr().err


def test_the_models_of_this_file_are_valid() -> None:
    onnx.checker.check_model(onnx.load_from_string(flat_classifier("n")))
