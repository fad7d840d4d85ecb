"""What is offered was proven on the network at hand; what a proof finds wrong, or raises, is named."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from techniques.disproof import disproved
from techniques.low_rank import decompose
from techniques.low_rank.decompose import unproven_layers
from techniques.pruning import block_removal, structured
from techniques.pruning.block_removal import unproven_blocks
from techniques.pruning.structured import left_alone, offered_groups, unproven
from tests.techniques.digits import context, trained


def test_everything_that_a_trained_network_offers_holds() -> None:
    network = trained()
    assert unproven(network, context()) == {}
    assert unproven_blocks(network, context()) == {}
    assert unproven_layers(network, context()) == {}


def test_the_wrong_ones_are_found_among_many_by_halves() -> None:
    tried: list[Sequence[str]] = []

    def trial(names: Sequence[str]) -> str:
        tried.append(names)
        if "raises" in names:
            raise ValueError("no such axis")
        return "off by 1" if "wrong" in names else ""

    names = [*map(str, range(30)), "wrong", "raises"]
    found = disproved(names, trial)
    assert found == {"wrong": "off by 1", "raises": "fails: ValueError: no such axis"}
    assert len(tried) < len(names)


def test_what_fails_only_together_is_not_proven() -> None:
    found = disproved(["a", "b", "c", "d"], lambda names: "apart" if {"a", "b"} <= set(names) else "")
    assert found == {"a": "only together: apart", "b": "only together: apart"}


def test_a_group_whose_removal_is_wrong_is_not_offered_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained().clone()

    def wrong(network: object, names: Sequence[str]) -> str:
        return "removed channels change the outputs" if "blocks.1.conv1" in names else ""

    monkeypatch.setattr(structured, "_trial", wrong)
    assert "blocks.1.conv1" not in offered_groups(network, context())
    assert set(unproven(network, context())) == {"blocks.1.conv1"}
    assert "blocks.1.conv1" not in left_alone(network, context())  # its inputs still go with another group


def test_a_block_that_is_removed_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained().clone()
    monkeypatch.setattr(block_removal, "_bypass", lambda total, shortcut, moved: shortcut)
    assert set(unproven_blocks(network, context())) == {"blocks.0"}


def test_factors_that_are_not_the_layer_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = decompose.factorise

    def wrong(layer: decompose.Layer, ranks: tuple[int, ...]) -> torch.nn.ModuleDict:
        factors = right(layer, ranks)
        with torch.no_grad():
            next(iter(factors.parameters())).mul_(1.01)
        return factors

    monkeypatch.setattr(decompose, "factorise", wrong)
    assert "of its outputs' scale" in unproven_layers(trained(), context())["blocks.2.conv2"]
