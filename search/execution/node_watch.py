"""Watching a cluster while trials run: which nodes come and go, what is waited for, and when that takes too long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from search.errors import ClusterError
from search.execution.cluster import Claim, Node, free_room, has_room, living_nodes
from search.execution.driver import DriverBound, TrialDriver

TELL_AFTER_S = 20.0
"""A process on a quiet node has started by then."""
_LOOK_EVERY_S = 2.0
_STARTING = "trials have a node, and have waited for their processes to start there"


class Patience:
    """Says every `TELL_AFTER_S` what is waited for, and until when.

    Args:
        tell: takes a sentence.
    """

    def __init__(self, what: str, limit_s: float, tell: Callable[[str], None]) -> None:
        self.what, self._limit_s, self._tell = what, limit_s, tell
        self._since = self._told = time.monotonic()

    @property
    def words(self) -> str:
        """What is waited for, and for how long."""
        waited_s = time.monotonic() - self._since
        return f"{self.what} for {waited_s:.0f} s, at most {self._limit_s:.0f} s: {free_room()}"

    def is_over(self) -> bool:
        """Whether it took too long; to be asked again and again."""
        now = time.monotonic()
        if now - self._told > min(TELL_AFTER_S, self._limit_s / 2):
            self._told = now
            self._tell(self.words)
        return now - self._since > self._limit_s

    def restart(self, what: str) -> None:
        """Something happened, and what is waited for now is this."""
        self.what = what
        self._since = self._told = time.monotonic()


class NodeWatch(DriverBound, Callback):  # type: ignore[misc]
    """Tune asks it at every step.

    Args:
        claim_now: what a trial should ask for as the nodes are.

    Attributes:
        claim: what each trial asks for; another one as soon as no node is left that could ever hold it.
        lost: how many nodes were lost since it was made.
        gave_up: what was waited for in vain; empty as long as there is patience.
    """

    def __init__(self, driver: TrialDriver, claim_now: Callable[[], Claim], limit_s: float) -> None:
        self._driver, self._claim_now, self.claim = driver, claim_now, claim_now()
        self.lost, self.gave_up = 0, ""
        self.nodes: dict[str, Node] = {}
        self._looked = time.monotonic()
        self._meet()
        self._patience = Patience(self._no_room, limit_s, self._warn)

    @property
    def _no_room(self) -> str:
        return f"trials have waited for a node with {self.claim} to spare"

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Look at nodes and trials."""
        looks = time.monotonic() - self._looked > _LOOK_EVERY_S
        if looks:
            self._looked = time.monotonic()
            self._meet()
        states = {trial.status for trial in trials}
        if Trial.RUNNING in states or Trial.PENDING not in states:
            self._patience.restart(self._no_room)
            return
        if looks and (what := _STARTING if has_room() else self._no_room) != self._patience.what:
            self._patience.restart(what)
        if self._patience.is_over():
            self.gave_up = self._patience.words

    def _meet(self) -> None:
        now = {node.node_id: node for node in living_nodes()}
        gone = [node for node_id, node in self.nodes.items() if node_id not in now]
        new = [node for node_id, node in now.items() if node_id not in self.nodes]
        self.nodes = now
        self.lost += len(gone)
        for node in gone:
            self._warn(f"node {node} was lost; its trials go on elsewhere")
        if new:
            self._driver.note(f"nodes: {', '.join(str(node) for node in new)}", {"nodes": [node.node_id for node in new]})
        if not any(self.claim.fits(node) for node in now.values()):
            self._claim_anew()
        self._tell_useless([node for node in new if not self.claim.fits(node)])

    def _claim_anew(self) -> None:
        """Trials take what there is; where nothing will do, they wait for the nodes to come back."""
        try:
            claim = self._claim_now()
        except ClusterError:
            return
        if claim != self.claim and any(claim.fits(node) for node in self.nodes.values()):
            self._warn(f"no node is left with {self.claim}: trials go on with {claim}")
            self.claim = claim

    def _tell_useless(self, nodes: list[Node]) -> None:
        """On which nodes no trial can run, and why."""
        without = ", ".join(str(node) for node in nodes if node.gpus < self.claim.gpus)
        small = ", ".join(str(node) for node in nodes if node.gpus >= self.claim.gpus)
        if without:
            self._warn(f"without a GPU, and so without trials: {without}; PARETOPRESS_TRAIN_DEVICE=cpu uses them, too, and no GPU")
        if small:
            self._warn(
                f"too small for a trial of {self.claim.cpus} CPUs: {small}; set PARETOPRESS_TRIAL_CPUS lower to use them, too"
            )

    def _warn(self, words: str) -> None:
        self._driver.note(words, warning=True)
