"""The policy: at most fifteen numbers that the sampler proposes and the allocation turns into a recipe per place.

They are made from what is offered: one for each axis on which something can be done, however many techniques do it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import MappingProxyType
from typing import Any

from search.aims import SHARE, AimRange
from search.options import Offered
from techniques import registry
from techniques.base import TrainingMethod
from techniques.option import AXES, Axis
from techniques.parameters import ChoiceParameter, FloatParameter, Parameter

Value = float | int | str | bool
MAX_PARAMETERS = 15
NONE, ANY = "none", "any"
_COST, _METHOD, _WITH = "cost.", "method.", "with."
_OFF, _ON = "off", "on"
_CHEAP, _DEAR = 0.5, 2.0
"""Of the axis that leads and the others. Sixteenfold, one axis did all there was to do, and lost thirty points and more."""
_LEAST_COST = 0.25
"""Down to a tenth, and up to ten, most draws left all to one axis."""


def states_optimizer(name: str) -> bool:
    """Whether a technique trains by itself."""
    technique = registry.get(name)
    return isinstance(technique, TrainingMethod) and technique.states_optimizer


@dataclass(frozen=True)
class Policy:
    """How to spend the accuracy that the budget allows.

    ``values`` by name, each with a default where it is missing:

    - ``share.<price>``: what the recipe should cost, as a share of what the original does (`search.aims`).
    - ``cost.<axis>``: what a unit of loss counts for on this axis; the allocation prefers what is cheap.
    - ``method.<axis>``: the only technique that may be used at the places of this axis; ``any`` lets the allocation choose.
    - ``<axis>``: which option takes the whole network, by its id, or ``none``.
    - ``training``: the technique that trains, of those that state an optimiser.
    - ``with.<technique>``: whether another one takes part in the training.
    - ``<technique>.<setting>``: see `Technique.settings`.
    """

    values: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))

    def shares(self) -> dict[str, float]:
        """Shares of the original by the name of the price."""
        return {name.removeprefix(SHARE): float(value) for name, value in self.values.items() if name.startswith(SHARE)}

    def cost(self, axis: Axis) -> float:
        """See the class."""
        return float(self.values.get(f"{_COST}{axis}", 1.0))

    def allows(self, technique: str, axis: Axis) -> bool:
        """Whether the allocation may use the technique at places of this axis."""
        return self.values.get(f"{_METHOD}{axis}", ANY) in (ANY, technique)

    def pinned(self, axis: Axis) -> str:
        """Id of the option that takes the whole network, or `NONE`."""
        return str(self.values.get(axis, NONE))

    def training(self, techniques: Sequence[str]) -> tuple[str, ...]:
        """Which of these techniques train together: one that states an optimiser, and those that are switched on.

        Without any that states an optimiser nothing is trained.
        """
        optimising = [name for name in techniques if states_optimizer(name)]
        if not optimising:
            return ()
        named = str(self.values.get("training", optimising[0]))
        others = [name for name in techniques if name not in optimising and self.values.get(f"{_WITH}{name}") == _ON]
        return (named if named in optimising else optimising[0], *others)

    def settings(self, technique: str) -> dict[str, Value]:
        """Settings of a technique by their own names."""
        prefix = f"{technique}."
        return {name.removeprefix(prefix): value for name, value in self.values.items() if name.startswith(prefix)}

    def to_json(self) -> dict[str, Any]:
        """A flat JSON object."""
        return dict(self.values)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Policy:
        """Read what `to_json` wrote."""
        return Policy(data)


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of the policy that this search leaves open, and the policies that are tried first."""

    parameters: tuple[Parameter, ...]
    first: tuple[Policy, ...]


def search_space(
    offered: Offered,
    training: Sequence[str],
    aims: Sequence[AimRange] = (),
    savings: Mapping[Axis, float] | None = None,
    plain_too: bool = True,
) -> SearchSpace:
    """The space over what is offered.

    Args:
        aims: what recipes may aim at.
        training: names of the techniques that may train.
        savings: axis -> what its options save at most, in any unit: policies that lead with the largest are tried first.
        plain_too: whether a policy in the network's own format is one of the first.
    """
    parameters = tuple(islice([*(aim.parameter for aim in aims), *_parameters(offered, training)], MAX_PARAMETERS))
    defaults = {parameter.name: parameter.default for parameter in parameters}
    # A front needs its middle and its far end as well: the same balance of axes at three aims.
    near, middle, far = ({aim.parameter.name: aim.first[index] for aim in aims} for index in range(3))
    first = [Policy({**defaults, **shares}) for shares in ((near, middle, far) if aims else ({},))]
    costs = [axis for axis in AXES if f"{_COST}{axis}" in defaults]
    ranked = sorted(costs, key=lambda axis: -(savings or {}).get(axis, 0.0))
    lead = {aim.parameter.name: aim.lead for aim in aims}
    first += [Policy({**defaults, **lead, **_led_by(axis, costs, offered, parameters)}) for axis in ranked[:2]]
    if plain_too and "bits" in defaults and defaults["bits"] != NONE:
        first.append(Policy({**defaults, **{aim.parameter.name: aim.plain for aim in aims}, "bits": NONE}))
    return SearchSpace(parameters, tuple(first))


def _led_by(axis: Axis, costs: Sequence[Axis], offered: Offered, parameters: Sequence[Parameter]) -> dict[str, Value]:
    """One axis is cheap, the others are dear; its techniques are tried with the last of their choices."""
    values: dict[str, Value] = {f"{_COST}{other}": _CHEAP if other == axis else _DEAR for other in costs}
    leading = {option.technique for option in offered.local if option.axis == axis}
    for parameter in parameters:
        if isinstance(parameter, ChoiceParameter) and parameter.name.partition(".")[0] in leading:
            values[parameter.name] = parameter.choices[-1]
    return values


def _of_technique(name: str, parameter: Parameter) -> Parameter:
    return replace(parameter, name=f"{name}.{parameter.name}")


def _parameters(offered: Offered, training: Sequence[str]) -> Sequence[Parameter]:
    """The most telling ones first: where there are more than a search can vary, the last take their defaults."""
    local: dict[Axis, list[str]] = {axis: [] for axis in AXES}
    for option in offered.local:
        local[option.axis] += [option.technique] if option.technique not in local[option.axis] else []
    found: list[Parameter] = []
    for axis in AXES:
        choices = (NONE, *(option.option_id for option in offered.pinned if option.axis == axis))
        if len(choices) > 1:
            # Integers are tried first: no other choice saves as much. A smaller image is not.
            found.append(ChoiceParameter(axis, choices, choices[1] if axis == "bits" else NONE))
    found += [FloatParameter(f"{_COST}{axis}", _LEAST_COST, 1 / _LEAST_COST, 1.0, log=True) for axis in AXES if local[axis]]
    found += [ChoiceParameter(f"{_METHOD}{axis}", (ANY, *names), ANY) for axis, names in local.items() if len(names) > 1]
    optimising = [name for name in training if states_optimizer(name)]
    if len(optimising) > 1:
        found.append(ChoiceParameter("training", tuple(optimising), optimising[0]))
    found += [ChoiceParameter(f"{_WITH}{name}", (_OFF, _ON), _OFF) for name in training if name not in optimising]
    offering = {option.technique for option in offered.options}
    for name in [*training, *(one.name for one in registry.all_techniques() if one.name in offering)]:
        found += [_of_technique(name, parameter) for parameter in registry.get(name).settings()]
    return found
