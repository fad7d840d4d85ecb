"""What the allowed techniques can do to this network: collected and proven once, before any of it is measured or combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from search.attempts import Attempts
from search.errors import OptionSkippedError
from techniques import registry
from techniques.base import Transform
from techniques.context import TechniqueContext
from techniques.network import Network
from techniques.option import NETWORK, Option

PROOF_S = 120.0
"""What is offered is proven on the network itself; so long may running it take beside finding the places."""


@dataclass(frozen=True)
class Offered:
    """All options of a network, the mildest first at each place. ``skipped``: technique -> why it has none."""

    options: tuple[Option, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def local(self) -> tuple[Option, ...]:
        """Options at places: the allocation chooses among them."""
        return tuple(option for option in self.options if option.place != NETWORK)

    @property
    def pinned(self) -> tuple[Option, ...]:
        """Options that take the whole network: the policy names one of each axis, or none."""
        return tuple(option for option in self.options if option.place == NETWORK)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"options": [option.to_json() for option in self.options], "skipped": dict(self.skipped)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Offered:
        """Read what `to_json` wrote."""
        return Offered(tuple(Option.from_json(one) for one in data["options"]), data["skipped"])


def collect_options(network: Network, context: TechniqueContext, techniques: Sequence[str], attempts: Attempts) -> Offered:
    """All single options on this network that the request allows.

    Args:
        techniques: names, in the order of registration.

    Raises:
        OutsideError: the search is to stop.
    """
    options: list[Option] = []
    skipped: dict[str, str] = {}
    for name in techniques:
        technique = registry.get(name)
        attempts.show("sensitivity", f"finding and proving what {name} can do")
        try:
            reason = attempts.attempt(f"support of {name}", partial(technique.supports, network, context))
            if not reason and isinstance(technique, Transform):
                options += attempts.attempt(f"places of {name}", partial(technique.options, network, context), PROOF_S)
        except OptionSkippedError as error:
            reason = str(error)
        if reason:
            skipped[name] = reason
    return Offered(tuple(options), skipped)
