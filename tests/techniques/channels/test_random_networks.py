"""Random networks under every technique: whatever is offered computes what the masked original does, and has priced shapes."""

from __future__ import annotations

import pytest

from benchmarks.trust_graphs import STEPS, Tally, try_all

PER_TEST = 10


@pytest.mark.parametrize("first", range(0, 60, PER_TEST))
def test_whatever_is_offered_is_exact_and_priced_on_the_right_shapes(first: int) -> None:
    tally = Tally()
    for seed in range(first, first + PER_TEST):
        try_all(seed, tally, STEPS)
    assert tally.raised == []
    assert tally.counts["groups"] > PER_TEST
    assert tally.counts["groups_not_offered"] == tally.counts["blocks_not_offered"] == tally.counts["layers_not_offered"] == 0
