"""The two contracts of this layer: a `Transform` makes a network smaller, a `TrainingMethod` makes it better.

Both are stateless; a technique is a name, a version, a frozen config dataclass, the parameters it declares for a given
network, and one verb. Registering one (`techniques.registry`) is all that the search and the contract tests need.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from techniques.context import ImageSource, TechniqueContext
from techniques.errors import ConfigError
from techniques.network import Network
from techniques.parameters import Parameter

Measure = Literal["parameters", "nonzeros", "bits", "macs", "layers"]
ConfigT = TypeVar("ConfigT")


class Technique(ABC, Generic[ConfigT]):
    """What both kinds share. Instances hold no state; all choices stand in the config."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    config_type: ClassVar[type[Any]]

    @abstractmethod
    def parameters(self, network: Network, context: TechniqueContext) -> Sequence[Parameter]:
        """What may be searched on this network; empty when the technique has nothing to do here."""

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

    reduces: ClassVar[frozenset[Measure]]
    after_training: ClassVar[bool] = False
    """Whether the step belongs behind training in a recipe (post-training quantisation does)."""
    ignores_sizes: ClassVar[bool] = False
    """Whether names and connections alone decide what it does to a meta network, never channel counts. Thousands of recipes that
    prune differently are then priced on one network to which it was applied once (`techniques.pruning.plan`)."""

    @abstractmethod
    def apply(self, network: Network, config: ConfigT, context: TechniqueContext) -> Network:
        """Return a smaller network; the input is left as it was.

        Raises:
            ConfigError: the config names modules that are not there, or values the network cannot take.
            DataRequiredError: real weights need calibration images and the context has none.
        """


@dataclass(frozen=True)
class Effort:
    """How long to train: optimiser steps per rung, each rung a learning-rate cycle of its own that ends near zero.

    ``Effort((0, 200, 600), batch_size=128)`` is rung 0 without training, then 200 steps, then 600 more.
    """

    rung_steps: tuple[int, ...]
    batch_size: int = 128

    def up_to(self, rung: int) -> Effort:
        """The same effort cut off after ``rung``."""
        return Effort(self.rung_steps[: rung + 1], self.batch_size)


class TrainingMethod(Technique[ConfigT]):
    """``fit`` returns a network of the same structure with better weights; never larger, and resumable."""

    @abstractmethod
    def fit(
        self,
        network: Network,
        data: ImageSource,
        effort: Effort,
        config: ConfigT,
        context: TechniqueContext,
        checkpoint: Path | None = None,
    ) -> Network:
        """Train for every rung of ``effort``; with a checkpoint file, rungs that it already holds are not repeated.

        The same network, data, effort, config and seed give the same weights, resumed or not (one machine, fixed threads).
        """
