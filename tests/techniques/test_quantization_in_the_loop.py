"""The last rung trains on what int8 will round: the rungs before do not, and nothing of it is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from techniques.apply import regimes_of, training_of
from techniques.distillation.soft_targets import SoftTargets
from techniques.effort import TrainingEffort
from techniques.export import to_onnx
from techniques.network import Network
from techniques.quantization import in_the_loop, weights
from techniques.quantization.in_the_loop import QuantizationInTheLoop
from techniques.quantization.weights import channel_steps
from techniques.recipe import Recipe, Step
from techniques.training.loop import Training, fit
from techniques.training.parts import Regime, SgdConfig
from tests.techniques.digits import accuracy, context, digits, same_state, state, trained, untrained, with_teacher

ROUNDED = QuantizationInTheLoop("all", (), ("*",), reduced=False)
RUNGS, WHOLE = TrainingEffort((0, 3, 5), 32), TrainingEffort((0, 3, 5), 32, last_steps=4)


def _fit(regimes: tuple[Regime, ...], effort: TrainingEffort, network: Network | None = None, file: Path | None = None) -> Network:
    training = Training((SoftTargets(4.0, 0.9, "classes"),), regimes, SgdConfig(0.02, 5e-4))
    return fit(network or untrained(), with_teacher(digits()[0]), effort, training, context(), file)


def test_only_the_last_rung_rounds() -> None:
    assert same_state(state(_fit((ROUNDED,), RUNGS)), state(_fit((), RUNGS)))
    assert not same_state(state(_fit((ROUNDED,), WHOLE)), state(_fit((), WHOLE)))


def test_resumed_before_the_last_rung_or_not_the_weights_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "c0001.rungs"
    _fit((ROUNDED,), WHOLE.up_to(2), file=file)
    assert same_state(state(_fit((ROUNDED,), WHOLE)), state(_fit((ROUNDED,), WHOLE, file=file)))


def test_nothing_of_it_is_left() -> None:
    finished = _fit((ROUNDED,), WHOLE)
    modules = list(finished.graph.modules())
    assert not any(parametrize.is_parametrized(module) for module in modules)
    assert not any(module._forward_pre_hooks for module in modules)
    assert to_onnx(finished)


def test_layers_that_stay_float_are_not_rounded() -> None:
    network = untrained().clone()
    QuantizationInTheLoop("all", ("stem.*",), ("stem.*", "blocks.0.*"), reduced=False).begin(network)
    rounded = [name for name, module in network.graph.named_modules() if parametrize.is_parametrized(module)]
    assert rounded
    assert all(name.startswith("blocks.0.") for name in rounded)


def test_a_rounded_weight_lies_on_its_steps_and_passes_gradients() -> None:
    layer = nn.Conv2d(3, 4, 3)
    plain = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", in_the_loop._RoundedWeight(reduced=False, depthwise=False))
    assert torch.equal(layer.weight, plain), "not active yet"
    (rounding,) = layer.parametrizations["weight"]  # type: ignore[misc,index]
    rounding.active.fill_(True)
    steps = channel_steps(plain, reduced=False).view(-1, 1, 1, 1)
    whole = layer.weight.detach() / steps
    assert torch.allclose(whole, whole.round(), atol=1e-4)
    assert (layer.weight - plain).abs().max() <= steps.max() / 2 * 1.001
    layer.weight.sum().backward()
    assert torch.equal(layer.parametrizations["weight"].original.grad, torch.ones_like(plain))  # type: ignore[union-attr,index]


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_inputs_are_rounded_to_256_values(low: float) -> None:
    layer = nn.Conv2d(1, 1, 1)
    parametrize.register_parametrization(layer, "weight", in_the_loop._RoundedWeight(reduced=False, depthwise=False))
    x = torch.linspace(low, 3.0, 10_000).reshape(1, 1, 100, 100)
    assert in_the_loop._round_inputs(layer, (x,)) is None
    layer.parametrizations["weight"][0].active.fill_(True)  # type: ignore[index,union-attr,operator]
    rounded = in_the_loop._round_inputs(layer, (x,))
    assert rounded is not None
    assert len(rounded[0].unique()) <= 256
    assert (rounded[0] - x).abs().max() <= (3.0 - low) / 255 * 0.501
    assert 0.0 in rounded[0].unique() or low == 0.0


def test_a_network_that_was_trained_on_rounded_weights_loses_less_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of three values, where rounding matters."""
    for module in (weights, in_the_loop):
        monkeypatch.setattr(module, "WEIGHT_LIMIT", 1)
    effort = TrainingEffort((0,), 64, last_steps=60)
    with_rounding, without = (_rounded(_fit(regimes, effort, trained())) for regimes in ((ROUNDED,), ()))
    assert accuracy(with_rounding) > accuracy(without) + 0.2
    assert accuracy(with_rounding) > 0.8


def _rounded(network: Network) -> Network:
    result = network.clone()
    with torch.no_grad():
        for module in result.graph.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.copy_(_on_steps(module.weight))
    return result.eval()


def _on_steps(weight: Tensor) -> Tensor:
    steps = channel_steps(weight, reduced=False).view(-1, *[1] * (weight.ndim - 1))
    return (weight / steps).round().clamp(-1, 1) * steps


def test_a_step_behind_training_brings_it_where_it_says_so() -> None:
    distillation = Step("distillation", {"learning_rate": 0.01}, 2)
    new = Recipe((distillation, Step("int8_quantization", {"reduce_range": True, "exclude": ["fc"], "in_loop": True}, 1)))
    assert regimes_of(new, context()) == (QuantizationInTheLoop("all", ("fc",), ("*",), reduced=True),)
    assert training_of(new, context()).regimes == regimes_of(new, context())
    old = Recipe((distillation, Step("int8_quantization", {"reduce_range": True}, 1)))
    assert regimes_of(old, context()) == ()
