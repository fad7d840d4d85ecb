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


def _unusable(options: Sequence[Option], technique: Transform[Any]) -> str:
    """What is wrong with the options of a technique that somebody else wrote; empty if nothing is."""
    ids = [option.option_id for option in options]
    if len(set(ids)) < len(ids):
        return f"it offers {next(id_ for id_ in ids if ids.count(id_) > 1)} twice"
    foreign = [option.option_id for option in options if (option.technique, option.axis) != (technique.name, technique.axis)]
    return f"it offers {foreign[0]}, which is not its own" if foreign else ""


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
                found = attempts.attempt(f"places of {name}", partial(technique.options, network, context), PROOF_S)
                reason = _unusable(found, technique)
                options += () if reason else found
        except OptionSkippedError as error:
            reason = str(error)
        if reason:
            skipped[name] = reason
    return Offered(tuple(options), skipped)
