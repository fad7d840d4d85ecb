"""Environment variables of processes that train, here and on a cluster. Imports nothing: they are set before torch loads."""

from __future__ import annotations

from collections.abc import Mapping

WAIT_POLICY = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
"""To be set before torch is loaded: threads of a training step that wait for each other soon sleep. If they spin on, a step on two
processors takes forty times as long beside one other busy process; if they sleep at once, a step of a small network takes a third
longer on an idle machine."""
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**31)}
"""To be set before the process starts: activations are not given back to the kernel at every step, only to be taken from it anew (a
tenth of a step). The first one is the largest that any glibc takes."""


def wait_policy(environment: Mapping[str, str]) -> dict[str, str]:
    """What an environment lacks of `WAIT_POLICY`: nothing where an operator has one of their own."""
    return {} if environment.keys() & WAIT_POLICY.keys() else dict(WAIT_POLICY)


def with_training_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment with all of these; what an operator has set stays."""
    return {**wait_policy(environment), **KEPT_MEMORY, **environment}
