"""From a target to what techniques know of it: the only place where one becomes the other."""

from __future__ import annotations

from hw_models.targets import Target
from techniques.facts import TargetFacts


def facts_of(target: Target) -> TargetFacts:
    """What techniques know of a target."""
    return TargetFacts(target.channel_multiple, target.formats, target.unsigned_activations, target.reduced_weight_range)
