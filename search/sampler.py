"""Proposes policies with Optuna: a multi-objective TPE that knows the budget as constraints. The only importer of optuna."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from search.space import Policy, SearchSpace
from techniques.parameters import ChoiceParameter, FloatParameter, Parameter

OBJECTIVE_COUNT = 3


class PolicySampler:
    """Ask and tell over one study (drop in points, latency ratio, size ratio: all minimised).

    The study's storage is a file of its own, rebuilt from the store after a restart (contract 6). The sampler is reseeded
    before each ask with hash(search seed, trial number), so that a proposal depends on what was told and on nothing else
    (contract 7).
    """

    def __init__(self, space: SearchSpace, seed: int, storage_path: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        for stale in storage_path.parent.glob(storage_path.name + "*"):
            stale.unlink()
        self._seed = seed
        self._space = space
        self._distributions = {p.name: _distribution(p) for p in space.parameters}
        self._study = optuna.create_study(
            study_name="search",
            storage=f"sqlite:///{storage_path}",
            directions=["minimize"] * OBJECTIVE_COUNT,
            sampler=self._sampler(0),
        )
        self._trials: dict[int, optuna.Trial] = {}

    def ask(self, number: int) -> Policy:
        """A policy for trial ``number``: first the space's own first policies, then the sampler's."""
        if number < len(self._space.first):
            self._study.enqueue_trial(self._parameters_of(self._space.first[number]))
        self._study.sampler = self._sampler(number)
        trial = self._study.ask(self._distributions)
        self._trials[number] = trial
        return Policy(trial.params)

    def tell(self, number: int, values: Sequence[float], constraints: Sequence[float]) -> None:
        """Report a trial: objectives, and constraints that are met when at most 0."""
        trial = self._trials.pop(number, None)
        if trial is None:
            return  # of another space: see `resume`
        for name, value in _named(constraints).items():
            trial.set_constraint(name, value)
        self._study.tell(trial, list(values))

    def tell_failed(self, number: int) -> None:
        """Report a trial that gave no numbers."""
        trial = self._trials.pop(number, None)
        if trial is not None:
            self._study.tell(trial, state=TrialState.FAIL)

    def resume(self, number: int, policy: Policy) -> None:
        """A trial of an earlier life is running again; nothing is learnt of one whose policy is none of this space."""
        if self.knows(policy.to_json()):
            self._study.enqueue_trial(self._parameters_of(policy))
            self._trials[number] = self._study.ask(self._distributions)

    def knows(self, policy: Mapping[str, Any]) -> bool:
        """Whether a policy is one of this space: what is offered, or what it costs, may have changed since it was proposed."""
        if not set(self._distributions) <= set(policy):
            return False
        return all(_contains(kind, policy[name]) for name, kind in self._distributions.items())

    def restore(self, policy: Mapping[str, Any], values: Sequence[float], constraints: Sequence[float]) -> None:
        """Add a finished trial of an earlier life of this search, if its policy is one of this space."""
        if not self.knows(policy):
            return
        parameters = self._parameters_of(Policy.from_json(policy))
        self._study.add_trial(
            optuna.trial.create_trial(
                params=parameters,
                distributions=self._distributions,
                values=list(values),
                constraints=_named(constraints),
            )
        )

    def _parameters_of(self, policy: Policy) -> dict[str, Any]:
        values = {**{p.name: p.default for p in self._space.parameters}, **policy.to_json()}
        return {name: values[name] for name in self._distributions}

    def _sampler(self, number: int) -> TPESampler:
        digest = hashlib.sha256(f"{self._seed}:{number}".encode()).digest()
        return TPESampler(
            seed=int.from_bytes(digest[:4], "big"),
            multivariate=True,
            n_startup_trials=8,
        )


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False


def _named(constraints: Sequence[float]) -> dict[str, float]:
    return {f"limit_{index}": value for index, value in enumerate(constraints)}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, FloatParameter):
        return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, ChoiceParameter):
        return CategoricalDistribution(parameter.choices)
    return IntDistribution(parameter.low, parameter.high)
