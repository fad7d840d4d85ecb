"""Environment variables of processes that train, here and on a cluster. Imports nothing: they are set before torch loads."""

from __future__ import annotations

WAIT_POLICY = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
"""To be set before torch is loaded: threads of a training step that wait for each other soon sleep. If they spin on, a step on two
processors takes forty times as long beside one other busy process; if they sleep at once, a step of a small network takes a third
longer on an idle machine."""
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**31)}
"""To be set before the process starts: activations are not given back to the kernel at every step, only to be taken from it anew (a
tenth of a step)."""
