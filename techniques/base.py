"""The two contracts of this layer: a `Transform` makes a network smaller, a `TrainingMethod` makes it better.

Both are stateless; a technique is a name, a version, a frozen config dataclass, the options it has on a given network, and one
verb. Registering one (`techniques.registry`) is all that the search and the contract tests need.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

from techniques.context import TechniqueContext
from techniques.errors import ConfigError
from techniques.network import Network
from techniques.option import Axis, Option, Stage
from techniques.parameters import Parameter
from techniques.recipe import Step
from techniques.training.parts import Loss, Regime, SgdConfig

Measure = Literal["parameters", "nonzeros", "bits", "macs", "layers"]
ConfigT = TypeVar("ConfigT")
MAX_SETTINGS = 2


class Technique(ABC, Generic[ConfigT]):
    """What both kinds share. Instances hold no state; all choices stand in the config."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    config_type: ClassVar[type[Any]]
    stage: ClassVar[Stage]
    """Where its step stands in a recipe."""
    cites: ClassVar[str]
    """The paper, for people."""
    not_supported_on: ClassVar[str] = ""
    """For people who choose; `supports` says what holds for a network."""
    reads_shapes: ClassVar[bool] = False
    """Whether `step` needs the network as earlier stages leave it; it is given the original otherwise."""

    def supports(self, network: Network, context: TechniqueContext) -> str:
        """Why nothing of it can be used on this network and target; empty where it can."""
        return ""

    def settings(self) -> Sequence[Parameter]:
        """At most two numbers or choices for the whole network, which a search may vary; what is left out takes its default."""
        return ()

    @abstractmethod
    def step(
        self, network: Network, options: Sequence[Option], settings: Mapping[str, Any], context: TechniqueContext
    ) -> Step | None:
        """The step that does what these options of its own say, or None where nothing is left of them on this network.

        Args:
            network: on meta, and shared: it must not be changed; see ``reads_shapes``.
            settings: values of some of its `settings`, by their names.
        """

    def make_step(self, config: Mapping[str, Any]) -> Step:
        """A step of this technique as it is installed."""
        return Step(self.name, config, self.version)

    def upgraded(self, config: Mapping[str, Any], version: int) -> Mapping[str, Any]:
        """The config of a recipe that an older version wrote, as this version says it.

        Raises:
            ConfigError: there is no way to say it.
        """
        raise ConfigError(f"version {version} of it cannot be read by version {self.version}, which is installed here")

    def parse_config(self, data: Mapping[str, Any]) -> ConfigT:
        """Build the frozen config from a recipe's JSON object.

        Raises:
            ConfigError: an unknown field, a missing one, or a value that the config class refuses.
        """
        known = {f.name for f in dataclasses.fields(self.config_type)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(f"{self.name}: unknown config fields {unknown}; known are {sorted(known)}")
        try:
            config: ConfigT = self.config_type(**data)
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
            raise ConfigError(f"{self.name}: {error}") from error
        return config


class Transform(Technique[ConfigT]):
    """Pure: ``apply`` returns a new network that is smaller in at least one measure of ``reduces``.

    It works on meta networks too (structure without values), so that a recipe can be priced before it is built: the
    structure must follow from config and shapes alone. After batch norm statistics have gone stale, the caller
    recalibrates; a transform never trains.
    """

    axis: ClassVar[Axis]
    reduces: ClassVar[frozenset[Measure]]
    after_training: ClassVar[bool] = False
    """Whether the step belongs behind training in a recipe (post-training quantisation does)."""
    ignores_sizes: ClassVar[bool] = False
    """Whether names and connections alone decide what it does to a meta network, never channel counts. Thousands of recipes that
    prune differently are then priced on one network to which it was applied once (`Pricer`)."""
    changes_sizes_only: ClassVar[bool] = False
    """Whether it leaves names and connections as they are, so that it may be applied behind a transform that ignores sizes."""

    @abstractmethod
    def options(self, network: Network, context: TechniqueContext) -> Sequence[Option]:
        """What it can do at each place of this network, proven on it (contract 16), the mildest first at each place.

        On a meta network nothing can be proven: all that the shapes allow.
        """

    def left_alone(self, network: Network, context: TechniqueContext) -> Mapping[str, str]:
        """Layers (qualified names) for which it has no option, with the reason; those that it has nothing to say of are missing."""
        return {}

    def sparing(self, step: Step, layers: Sequence[str]) -> Step | None:
        """The step that does the same but leaves these layers (qualified names) as they are; None where it cannot say that."""
        return None

    def regimes(self, config: ConfigT, context: TechniqueContext) -> Sequence[Regime]:
        """What a training before this step does to get used to it; each call makes new ones."""
        return ()

    def carry(self, source: Network, target: Network) -> None:
        """``target`` is what a transform that ignores sizes made of ``source``, both on meta: what is known of one holds there."""

    @abstractmethod
    def apply(self, network: Network, config: ConfigT, context: TechniqueContext) -> Network:
        """Return a smaller network; the input is left as it was, and may share its graph with others: edit a `Network.clone` of it.

        Raises:
            ConfigError: the config names modules that are not there, or values the network cannot take.
            DataRequiredError: real weights need calibration images and the context has none.
        """


class TrainingMethod(Technique[ConfigT]):
    """What it adds to the one training of a candidate: losses, which are summed up, and regimes.

    Several methods in a recipe train together and spend the effort once (`techniques.training.loop.fit`); the first one that
    states an optimiser decides on it.
    """

    stage: ClassVar[Stage] = "training"
    states_optimizer: ClassVar[bool] = False
    """Whether `optimizer` gives one, by a field ``learning_rate`` of the config."""

    def step(
        self, network: Network, options: Sequence[Option], settings: Mapping[str, Any], context: TechniqueContext
    ) -> Step | None:
        """Its settings are its config; it has no options. One that states an optimiser takes the peak that was found."""
        rate = {"learning_rate": context.learning_rate} if context.learning_rate is not None and self.states_optimizer else {}
        return self.make_step({**settings, **rate})

    def losses(self, config: ConfigT, context: TechniqueContext) -> Sequence[Loss]:
        """Terms of what is minimised."""
        return ()

    def regimes(self, config: ConfigT, context: TechniqueContext) -> Sequence[Regime]:
        """What happens to the network beside its steps; each call makes new ones, for they may have a state."""
        return ()

    def optimizer(self, config: ConfigT) -> SgdConfig | None:
        """How steps are made; None leaves it to other methods."""
        return None
