"""The driver of a search, made of what was found out about its network."""

from __future__ import annotations

import time
from dataclasses import replace

from search.aims import Aims, margin_of
from search.allocation import allocate
from search.attempts import STEP_LIMIT_S, attempt
from search.clock import Clock
from search.composition import Composition
from search.driver import SearchDriver
from search.environment import SearchEnvironment
from search.errors import OptionSkippedError
from search.last_rung import LastRung
from search.planning import Planner
from search.protocols import CandidateStore, Event
from search.reach import Reach
from search.sampler import PolicySampler
from search.sensitivity import Sensitivity
from search.setup import Setup, training_methods
from search.shares import GRACE_SHARE, RAY_START_S, last_share
from search.space import SearchSpace, search_space
from search.tracking.outbox import Outbox
from techniques.apply import compress, trained_part, training_of
from techniques.effort import TrainingEffort
from techniques.recipe import Recipe
from techniques.training.checkpoint import held_rung
from techniques.training.range_test import STEPS, peak_learning_rate

LEARNING_RATE_PHASE, TRIALS_PHASE = "learning_rate", "trials"
_TEST_SHARE = 0.05
"""Of the wall time, which the test may take beside its steps."""
_HALF_WAY = 1
"""Of the policies that are tried first: the one whose recipe is compressed half as far as the search will go."""


def make_driver(
    setup: Setup,
    sensitivity: Sensitivity,
    environment: SearchEnvironment,
    outbox: Outbox,
    clock: Clock,
    reach: Reach,
    planner: Planner,
) -> SearchDriver:
    """The driver over this search; trials stop early enough to leave time for the finalists."""
    spec, limit_s = setup.spec, setup.spec.effort.max_wall_time_s
    usable = [name for name in setup.techniques if name not in sensitivity.skipped]
    effort = setup.evaluator.settings.effort
    training = training_methods(usable) if any(effort.stages) else ()
    price = setup.pricer.price(Recipe())
    original, margin = price.named(), margin_of(price, setup.target.attached)
    aims = Aims.of(spec.budget, spec.preference, original, reach.lowest, margin, sensitivity.in_formats(original))
    space = search_space(sensitivity.offered, training, aims.ranges, sensitivity.savings(), aims.plain_too)
    composition = Composition.of(setup.pricer, setup.context, sensitivity.pinned, training)
    if training:
        rate = _learning_rate(setup, composition, sensitivity, space, aims, environment)
        composition = replace(composition, context=replace(setup.context, learning_rate=rate))
    training_ends_at = clock.ends_at - setup.finals_time.reserved_s(limit_s) - limit_s * GRACE_SHARE
    last, trials_end_at = None, training_ends_at
    if training:
        last = LastRung(effort.last_steps, effort.rung_steps, setup.known.pace.step_s, training_ends_at)
        trials_end_at = _trials_end_at(training_ends_at, last_share(any(effort.rung_steps)), clock, environment.store)
    planner.trials_until(clock.spent_s + trials_end_at - time.monotonic())
    return SearchDriver(
        spec=spec,
        store=environment.store,
        outbox=outbox,
        sampler=PolicySampler(space, spec.effort.seed, environment.work_dir / "optuna.db"),
        sensitivity=sensitivity,
        pricer=setup.pricer,
        make_recipe=composition.recipe,
        aims=aims,
        rungs=setup.rungs,
        deadline=trials_end_at,
        grace_s=limit_s * GRACE_SHARE,
        first_deadline=clock.ends_at - setup.finals_time.least_s - RAY_START_S,
        first_ends_at=clock.ends_at,
        interrupt=setup.evaluator.files.interrupt,
        last=last,
        planner=planner,
        held_rung=lambda number: held_rung(setup.evaluator.files.checkpoint(number)),
    )


def _trials_end_at(training_ends_at: float, last_share: float, clock: Clock, store: CandidateStore) -> float:
    """When trials leave the time to the last rung, of `time.monotonic`: the same in every life of a search, till it is extended."""
    plan = store.phase(TRIALS_PHASE)
    if plan is None or plan["limit_s"] != clock.limit_s:
        left_s = max(training_ends_at - time.monotonic(), 0.0)
        plan = {"limit_s": clock.limit_s, "until_s": clock.spent_s + left_s * (1 - last_share)}
        store.save_phase(TRIALS_PHASE, plan)
    return time.monotonic() + float(plan["until_s"]) - clock.spent_s


def _learning_rate(
    setup: Setup,
    composition: Composition,
    sensitivity: Sensitivity,
    space: SearchSpace,
    aims: Aims,
    environment: SearchEnvironment,
) -> float | None:
    """The peak of the learning rate, found once; None where it could not be found: methods then train at their own."""
    store = environment.store
    found = store.phase(LEARNING_RATE_PHASE)
    if found is not None:
        return found["peak"]  # type: ignore[no-any-return]

    policy, stop = space.first[min(_HALF_WAY, len(space.first) - 1)], store.should_stop

    def find(recipe: Recipe) -> float:
        loaded = setup.evaluator.loaded()
        context = replace(setup.context, device=setup.train_device)
        network = compress(loaded.network, trained_part(recipe), context, None, TrainingEffort((0,)))
        return peak_learning_rate(network, loaded.training, training_of(recipe, context), context)

    limit_s = max(STEP_LIMIT_S, _TEST_SHARE * setup.spec.effort.max_wall_time_s) + STEPS * setup.known.pace.step_s
    try:
        recipe = allocate(policy, aims.at(policy.shares()), sensitivity, composition.recipe, setup.pricer.price, stop).recipe
        peak = attempt("learning rate", lambda: find(recipe), stop, limit_s)
    except OptionSkippedError as error:
        store.append(Event("warning", f"no learning rate could be found ({error}): methods train at their own"))
        peak = None
    else:
        words = f"learning rate: {peak:.3g}, more in a long last rung, by a test of {STEPS} steps"
        store.append(Event("phase", words, {"learning_rate": peak}))
    store.save_phase(LEARNING_RATE_PHASE, {"peak": peak})
    return peak
