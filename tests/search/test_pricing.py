from __future__ import annotations

import pytest
import torch

from examples.resnet import ResNet
from hw_models.predictor import Predictor
from hw_models.targets import get_target
from search import pricing
from search.pricing import Pricer
from techniques.apply import apply_recipe
from techniques.context import Batch, TechniqueContext
from techniques.errors import ConfigError
from techniques.export import to_onnx
from techniques.lift import from_module
from techniques.network import Network
from techniques.pruning.structured import groups
from techniques.recipe import Recipe, Step
from techniques.shapes import node_shapes

INT8 = Step("int8_quantization", {})


class Noise:
    """Random images to calibrate on."""

    def __len__(self) -> int:
        return 16

    def batches(self, epoch: int, batch_size: int):  # type: ignore[no-untyped-def]
        yield Batch(torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(epoch)))


CONTEXT = TechniqueContext(calibration=Noise())


@pytest.fixture(scope="module")
def network() -> Network:
    return from_module(ResNet(8, (8, 16, 32)), (1, 28, 28))


@pytest.fixture(scope="module")
def pricer(network: Network) -> Pricer:
    return Pricer(network, Predictor.uncalibrated(get_target("cpu-ort-1t")), 1, CONTEXT)


@pytest.fixture(scope="module")
def pruned(network: Network) -> Recipe:
    return Recipe((Step("structured_pruning", {"ratios": dict.fromkeys(groups(network, CONTEXT), 0.5)}),))


def test_the_original_costs_what_it_counts(network: Network, pricer: Pricer) -> None:
    price = pricer.price(Recipe())
    assert price.parameters == network.parameter_count()
    assert price.latency.source == "predicted"
    assert price.latency_low_ms < price.latency.value < price.latency_high_ms
    assert price.latency.spread == pytest.approx(price.latency_high_ms - price.latency.value)
    assert price.unknown_kernels


def test_a_pruned_recipe_is_cheaper_in_everything(pricer: Pricer, pruned: Recipe) -> None:
    before, after = pricer.price(Recipe()).named(), pricer.price(pruned).named()
    assert all(after[name] < before[name] for name in before)


def test_integers_shrink_the_file_and_keep_the_work(pricer: Pricer) -> None:
    before, after = pricer.price(Recipe()), pricer.price(Recipe((INT8,)))
    assert after.macs == before.macs
    assert after.weight_size_bytes < 0.35 * before.weight_size_bytes
    assert after.file_size_bytes < 0.5 * before.file_size_bytes


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_estimated_file_size_is_that_of_the_export(network: Network, pricer: Pricer, int8: bool) -> None:
    recipe = Recipe((INT8,) if int8 else ())
    exported = to_onnx(apply_recipe(network, recipe, CONTEXT))
    assert pricer.price(recipe).file_size_bytes == pytest.approx(len(exported), rel=0.1)


def test_equal_recipes_are_priced_once(network: Network, pruned: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Step] = []
    monkeypatch.setattr(pricing, "apply_step", lambda net, index, step, context: asked.append(step) or net)
    pricer = Pricer(network, Predictor.uncalibrated(get_target("cpu-ort-1t")))
    assert pricer.price(pruned) is pricer.price(Recipe.from_json(pruned.to_json()))
    assert len(asked) == 1


def test_pricing_leaves_the_network_alone(network: Network, pricer: Pricer, pruned: Recipe) -> None:
    before = {k: v.clone() for k, v in network.graph.state_dict().items()}
    pricer.price(pruned)
    after = network.graph.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_ranks_by_energy_follow_from_the_weights(network: Network, pricer: Pricer) -> None:
    layer = "blocks.1.conv2"
    recipe = Recipe((Step("low_rank", {"energies": {layer: 0.5}}),))
    assert pricer.price(recipe).parameters < network.parameter_count()


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (Step("magic", {}), "unknown technique"),
        (Step("structured_pruning", {"ratios": {"nowhere": 0.5}}), "nowhere"),
        (Step("structured_pruning", {"strength": 1}), "strength"),
    ],
    ids=["technique", "group", "field"],
)
def test_recipes_that_do_not_fit_are_config_errors(pricer: Pricer, step: Step, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        pricer.price(Recipe((step,)))


def test_the_pricer_is_a_cost_function(network: Network, pricer: Pricer) -> None:
    assert pricer(network) == pricer(network.to_meta()) == pricer.price(Recipe()).latency.value


def test_a_batch_takes_longer_than_an_image_and_its_macs_are_per_image(network: Network, pricer: Pricer) -> None:
    batched = Pricer(network, Predictor.uncalibrated(get_target("cpu-ort-1t")), 8).price(Recipe())
    assert batched.macs == pricer.price(Recipe()).macs
    assert batched.latency.value > pricer.price(Recipe()).latency.value


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_the_order_of_pricing_changes_no_price(network: Network, pricer: Pricer, int8: bool) -> None:
    names = list(groups(network, CONTEXT))
    for seed in range(4):
        draws = torch.rand(len(names), generator=torch.Generator().manual_seed(seed))
        ratios = {name: 0.7 * float(draw) for name, draw in zip(names, draws, strict=True)}
        steps = (Step("structured_pruning", {"ratios": ratios}), Step("distillation", {}), *([INT8] if int8 else []))
        assert pricer.price(Recipe(steps)) == pricer.price_network(apply_recipe(network, Recipe(steps), CONTEXT))


def test_what_recipes_begin_with_changes_no_price(network: Network, pricer: Pricer, pruned: Recipe) -> None:
    """Networks on meta are shared between composing and pricing, whichever comes first."""
    kept, (first, *_) = Pricer(network, Predictor.uncalibrated(get_target("cpu-ort-1t"))), pruned.steps
    begun = [kept.begun(Recipe(steps)) for steps in ((), (INT8,), (first,), (first, INT8))]
    shapes = [node_shapes(one) for one in begun]
    for steps in ((INT8,), (first, INT8), (first,), ()):
        assert kept.price(Recipe(steps)) == pricer.price(Recipe(steps))
    assert [node_shapes(one) for one in begun] == shapes
    assert kept.begun(Recipe((first, INT8))) is begun[3]


def test_a_resize_has_the_shape_that_torch_gives_it(network: Network) -> None:
    smaller = apply_recipe(network, Recipe((Step("input_resolution", {"height": 20, "width": 24}),)), CONTEXT)
    assert node_shapes(smaller, batch=2)["input_resize"] == (2, 1, 20, 24)
    assert torch.nn.Upsample(size=(20, 24), mode="bilinear")(torch.zeros(2, 1, 28, 28)).shape == (2, 1, 20, 24)
