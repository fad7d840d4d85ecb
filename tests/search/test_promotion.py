"""Who goes on, and what the sampler is told of who does not."""

from __future__ import annotations

import pytest

from search.pricing import Price
from search.promotion import Standings
from search.protocols import Measurement, RungReading
from search.spec import Budget

BUDGET = Budget(latency_ms=1.0, max_accuracy_drop_points=2.0)


def _price(latency_ms: float) -> Price:
    return Price(Measurement(latency_ms, "predicted"), latency_ms, latency_ms, 100, 100, 400, 500)


def _standings(*drops: tuple[float, ...], latency_ms: float = 0.5) -> Standings:
    standings = Standings(3, BUDGET, _price(1.0))
    for number, reached in enumerate(drops):
        for rung, drop in enumerate(reached):
            standings.add(number, RungReading(rung, 0.9, (0.8, 1.0), (drop, drop, drop)), _price(latency_ms))
    return standings


def test_an_untrained_candidate_is_told_with_the_drop_that_training_would_leave() -> None:
    standings = _standings((40.0, 4.0, 2.0), (60.0, 8.0, 6.0), (80.0,), (-1.0,), (30.0, 6.0))
    assert standings.told(0)[0][0] == 2.0
    assert standings.told(2)[0][0] == pytest.approx(80.0 * (2 + 2 + 6) / (4 + 40 + 60))
    assert standings.told(3)[0][0] == -1.0
    assert standings.told(4)[0][0] == pytest.approx(6.0 * (2 + 2 + 6) / (4 + 4 + 8))


def test_without_any_that_was_trained_to_the_end_the_drop_is_what_was_read() -> None:
    assert _standings((40.0,), (20.0, 5.0)).told(0)[0][0] == 40.0


def test_constraints_of_different_units_weigh_alike() -> None:
    latency, drop = _standings((42.0,), latency_ms=1.5).told(0)[1]
    assert latency == pytest.approx(0.5 / 1.5)
    assert drop == pytest.approx(20.0 / 21.0)
    assert all(value <= 0 for value in _standings((1.0,)).told(0)[1])


def test_the_limit_comes_before_speed() -> None:
    standings = _standings((1.0,), (30.0,), (1.5,), (50.0,), (1.8,))
    assert [standings.is_promoted(number, 0) for number in range(5)] == [True, False, True, False, True]


def test_the_first_few_go_on() -> None:
    standings = _standings((90.0,), (95.0,), (99.0,))
    assert all(standings.is_promoted(number, 0) for number in range(3))


def test_what_training_is_expected_to_bring_within_the_limit_is_not_held_to_what_it_lost_before() -> None:
    trained = ((40.0, 4.0, 0.2), (60.0, 8.0, 0.4), (80.0, 9.0, 0.6))
    standings = _standings(*trained, (50.0,))
    standings.add(4, RungReading(0, 0.9, (0.8, 1.0), (70.0, 70.0, 70.0)), _price(0.3))
    assert standings.is_promoted(4, 0), "the fastest, and 70 points become 1.2"
    assert not standings.is_promoted(2, 0), "worse than the first in all"


def test_some_that_recovered_fully_do_not_speak_for_what_is_ruined() -> None:
    standings = _standings((6.0, 1.0, 0.0), (10.0, 1.0, -0.1), (20.0, 2.0, 0.2), (15.0, 1.0, 0.0))
    standings.add(4, RungReading(0, 0.9, (0.8, 1.0), (88.0, 88.0, 88.0)), _price(0.1))
    standings.add(5, RungReading(0, 0.9, (0.8, 1.0), (89.0, 89.0, 89.0)), _price(0.05))
    assert not standings.is_promoted(4, 0)
    assert not standings.is_promoted(5, 0)
