from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from techniques.errors import UnsupportedNetworkError
from techniques.head import MAX_VALUES, Activation, Head, Task, find_head, logits_of, training_logits
from techniques.lift import from_module
from techniques.network import Network

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Ended(nn.Module):
    """Features of an image (or a map of them), then an end."""

    def __init__(self, outputs: int, end: Callable[[Tensor], Tensor], pooled: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity()
        self.head = nn.Conv2d(8, outputs, 1)
        self.end = end

    def before(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.pool(self.features(x)))
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.before(x))


@dataclass(frozen=True)
class Case:
    id: str
    outputs: int
    end: Callable[[Tensor], Tensor]
    head: Head
    task: Task = "classes"
    pooled: bool = True

    def module(self) -> Ended:
        return Ended(self.outputs, self.end, self.pooled).eval()

    def network(self) -> Network:
        return from_module(self.module(), (3, 8, 8)).eval()

    def columns(self) -> Tensor:
        """What training must see, from the module itself."""
        rows = self.module().before(IMAGES).flatten(1)
        if self.id == "one of two":
            rows = rows[:, 1:] - rows[:, :1]
        return torch.cat([torch.zeros_like(rows), rows], 1) if rows.shape[1] == 1 and self.task == "classes" else rows


def flat(y: Tensor) -> Tensor:
    return y.flatten(1)


SOFTMAX: Activation = "softmax"
CASES = [
    Case("logits", 5, flat, Head((5,))),
    Case("1x1 maps", 5, lambda y: y, Head((5,))),
    Case("softmax", 5, lambda y: flat(y).softmax(1), Head((5,), SOFTMAX)),
    Case("softmax from behind", 5, lambda y: functional.softmax(flat(y), -1), Head((5,), SOFTMAX)),
    Case("softmax, then flatten", 5, lambda y: y.softmax(1).flatten(1), Head((5,), SOFTMAX)),
    Case("log-softmax", 5, lambda y: functional.log_softmax(flat(y), 1), Head((5,), "log_softmax")),
    Case("sigmoids", 5, lambda y: flat(y).sigmoid(), Head((5,), "sigmoid"), "labels"),
    Case("single", 1, flat, Head((1,))),
    Case("single, squeezed", 1, lambda y: flat(y).squeeze(1), Head(())),
    Case("single, sigmoid", 1, lambda y: flat(y).sigmoid(), Head((1,), "sigmoid")),
    Case("single, sigmoid, squeezed", 1, lambda y: flat(y).sigmoid()[:, 0], Head((), "sigmoid")),
    Case("one of two", 2, lambda y: flat(y).softmax(1)[:, 1], Head((), "sigmoid")),
    Case("map", 2, lambda y: y, Head((2, 8, 8)), "values", pooled=False),
    Case("map of probabilities", 2, lambda y: y.sigmoid(), Head((2, 8, 8)), "values", pooled=False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_shape_and_activation_are_read_off_the_graph(case: Case) -> None:
    found = find_head(case.network())
    assert (found.outputs, found.activation) == (case.head.outputs, case.head.activation)
    assert found.classes == {"values": 0}.get(case.task, max(case.head.outputs, 2))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_training_sees_what_goes_into_the_final_activation(case: Case) -> None:
    network = case.network()
    found = training_logits(network, case.task)(IMAGES)
    if case.id != "map of probabilities":
        torch.testing.assert_close(found, case.columns(), rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in [network.graph.get_submodule("head").weight])  # type: ignore[union-attr]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_outputs_lead_back_to_the_same_decisions(case: Case) -> None:
    network = case.network()
    with torch.no_grad():
        inside = training_logits(network, case.task)(IMAGES)
        outside = logits_of(network(IMAGES), find_head(network), case.task)
    assert inside.shape == outside.shape
    if case.task == "classes":
        inside, outside = inside.softmax(1), outside.softmax(1)
    torch.testing.assert_close(outside, inside, rtol=1e-4, atol=1e-5)


def test_training_behaviour_is_the_networks() -> None:
    network = CASES[2].network()
    logits, norm = training_logits(network, "classes"), network.graph.get_submodule("features.1")
    before = norm.running_mean.clone()  # type: ignore[union-attr,operator]
    network.train()
    logits(IMAGES)
    assert not torch.equal(before, norm.running_mean)  # type: ignore[arg-type]


def test_certain_probabilities_stay_finite() -> None:
    certain = torch.tensor([[0.0, 1.0]])
    for activation, task in (("softmax", "classes"), ("sigmoid", "labels")):
        assert torch.isfinite(logits_of(certain, Head((2,), activation), task)).all()  # type: ignore[arg-type]


def test_a_softmax_over_a_part_is_no_row_of_classes() -> None:
    network = from_module(Ended(10, lambda y: y.reshape(-1, 2, 5).softmax(2)).eval(), (3, 8, 8))
    assert find_head(network) == Head((2, 5))
    network = from_module(Ended(10, lambda y: y.reshape(-1, 2, 5).softmax(2).flatten(1)).eval(), (3, 8, 8))
    assert find_head(network) == Head((10,))


def test_large_maps_are_compared_at_fixed_places() -> None:
    large = torch.arange(2.0 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    rows = logits_of(large, Head((3, 32, 32)), "values")
    assert rows.shape == (2, MAX_VALUES)
    assert torch.equal(rows, logits_of(large, Head((3, 32, 32)), "values"))
    assert len(rows[0].unique()) == MAX_VALUES


class _Ends(nn.Module):
    """Two linear heads on pooled features, and how they are made one output."""

    def __init__(self, end: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 8, 3), nn.Linear(8, 2), nn.Linear(8, 2)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.end(self.first(x), self.second(x))


def _share(values: Tensor) -> Tensor:
    return values / values.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("end", "activation"),
    [
        (lambda a, b: torch.sigmoid(torch.cat([a, b], 1)).clamp(1e-7, 1 - 1e-7), "sigmoid"),
        (lambda a, b: torch.cat([torch.sigmoid(a), torch.sigmoid(b)], 1), "sigmoid"),
        (lambda a, b: (torch.sigmoid(a) + torch.sigmoid(b)) / 2, "sigmoid"),
        (lambda a, b: 1 - torch.sigmoid(a + b), "sigmoid"),
        (lambda a, b: nn.functional.hardsigmoid(a - b), "sigmoid"),
        (lambda a, b: (a.softmax(1) + b.softmax(1)) * 0.5, "softmax"),
        (lambda a, b: torch.cat([a.softmax(1), b.softmax(1)], 1), "none"),
        (lambda a, b: torch.sigmoid(a) + torch.sigmoid(b), "none"),
        (lambda a, b: torch.sigmoid(a) * b, "none"),
        (lambda a, b: torch.tanh(a + b), "none"),
        (lambda a, b: torch.cat([torch.sigmoid(a), b], 1), "none"),
        (lambda a, b: _share((a + b).exp()), "softmax"),
        (lambda a, b: (a + b).log_softmax(1).exp(), "softmax"),
        (lambda a, b: 1 / (1 + torch.exp(-(a + b))), "sigmoid"),
        (lambda a, b: torch.cat([_share(a.exp()), torch.sigmoid(b)], 1), "none"),
        (lambda a, b: a.exp() / (1 + b.exp()), "none"),
        (lambda a, b: torch.add(torch.sigmoid(a), torch.sigmoid(b), alpha=-3) / 2, "none"),
        (lambda a, b: (nn.functional.hardtanh(a + b, -6.0, 6.0) + 1) / 2, "none"),
    ],
)
def test_probabilities_are_told_by_what_their_values_can_be(end: Callable[[Tensor, Tensor], Tensor], activation: str) -> None:
    """Found by a user: a sigmoid behind a clip, or two heads joined, was decided at 0, so that the network always said yes."""
    network = from_module(_Ends(end).eval(), (3, 8, 8))
    head = find_head(network)
    assert head.activation == activation
    if activation == "sigmoid":
        outputs = network(torch.randn(20, 3, 8, 8))
        assert torch.equal(logits_of(outputs, head, "labels") > 0, outputs > 0.5)


def test_a_decision_that_has_been_made_is_refused() -> None:
    with pytest.raises(UnsupportedNetworkError, match="ArgMax"):
        from_module(_Ends(lambda a, b: (a + b).argmax(1)).eval(), (3, 8, 8))
