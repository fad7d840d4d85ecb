"""One trial: a recipe taken up the rungs by an actor that is reused for the next trial. Returns values, opens no database."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import ray
from ray import tune

from search.execution.file_server import FileSource, TrialFiles
from search.execution.node_files import NodeFiles
from search.execution.word import Mouth, Tell

_KEY = "plan"
F = TypeVar("F", bound=TrialFiles)


@dataclass(frozen=True)
class TrialPlan:
    """What the driver decided for one trial.

    Attributes:
        number: the sampler's number; unique in the search.
        payload: JSON object for the evaluator (recipe, seed).
        rung: the first one to evaluate; more than 0 where the process before died there.
    """

    number: int
    payload: Mapping[str, Any] = field(default_factory=dict)
    rung: int = 0

    @staticmethod
    def of(config: Mapping[str, Any]) -> TrialPlan:
        """The plan in a Tune trial's config."""
        return TrialPlan(**config[_KEY])

    def to_config(self) -> dict[str, Any]:
        """As a Tune trial's config."""
        return {_KEY: {"number": self.number, "payload": dict(self.payload), "rung": self.rung}}


class RungEvaluator(Protocol):
    """What an actor runs. Pickled to the actor once; it may keep what it loaded between trials."""

    tell: Tell | None
    """Hears how far a trial is, after every step of training."""

    def evaluate(self, plan: TrialPlan, rung: int) -> Mapping[str, Any]:
        """Take the trial to ``rung`` and return JSON-able values; errors of the candidate are raised."""
        ...

    def on_device(self, device: str) -> Self:
        """The same evaluator, training elsewhere than on the CPU."""
        ...


class MovableEvaluator(RungEvaluator, Protocol[F]):
    """One that can run on another machine than the worker's."""

    @property
    def files(self) -> F:
        """What it reads and writes."""
        ...

    def with_files(self, files: F) -> Self:
        """The same evaluator on files that lie elsewhere."""
        ...


class AwayEvaluator(Generic[F]):
    """An evaluator on another machine: brings the files here, and what the trial wrote back.

    Args:
        open_files: called once, by the first trial: what goes wrong is then told with a reason.
    """

    def __init__(self, evaluator: MovableEvaluator[F], open_files: Callable[[], NodeFiles]) -> None:
        self._evaluator, self._open_files = evaluator, open_files
        self._opened: tuple[NodeFiles, MovableEvaluator[F]] | None = None
        self._number = -1

    def evaluate(self, plan: TrialPlan, rung: int) -> Mapping[str, Any]:
        """As the evaluator does it."""
        files, evaluator = self._opened or self._open()
        if plan.number != self._number:
            files.end(self._number)
            self._number = plan.number
            if rung:
                files.begin(plan.number)
        try:
            return evaluator.evaluate(plan, rung)
        finally:
            files.hand_in(plan.number)

    def _open(self) -> tuple[NodeFiles, MovableEvaluator[F]]:
        files = self._open_files()
        self._opened = files, self._evaluator.with_files(files.place(self._evaluator.files))
        return self._opened

    def close(self) -> None:
        """Nothing more is evaluated."""
        if self._opened:
            self._opened[0].close()


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Adapts a `RungEvaluator` to Ray Tune: one training iteration is one rung."""

    def setup(
        self, config: dict[str, Any], evaluator: RungEvaluator, source: FileSource | None = None, only_cuda: bool = False
    ) -> None:
        """Called once per actor; ``evaluator`` comes through the object store.

        Args:
            evaluator: with a source, a `MovableEvaluator`.
            source: of files, in a cluster.
            only_cuda: whether nothing may be trained on a CPU.
        """
        self._node_id = ray.get_runtime_context().get_node_id() if source else ""
        self._remark = ""
        if ray.get_gpu_ids():
            if only_cuda or _has_cuda():
                evaluator = evaluator.on_device("cuda")
            else:
                where = f"node {self._node_id[:8]}" if source else "this machine"
                self._remark = f"Ray gives trials a GPU of {where}, but torch finds no CUDA there: they train on its CPU"
        evaluator.tell = Mouth().say
        self._evaluator: RungEvaluator | AwayEvaluator[Any] = evaluator
        if source and source.node_id != self._node_id:
            movable = cast("MovableEvaluator[Any]", evaluator)
            self._evaluator = AwayEvaluator(movable, lambda: NodeFiles(source.server, self._node_id))
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial without a new process."""
        self._plan = TrialPlan.of(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the next rung; the values travel as JSON, since Tune flattens nested results.

        A candidate that fails is a value too: an actor must survive it.
        """
        rung = self._plan.rung + int(self.iteration)
        try:
            values = {**self._evaluator.evaluate(self._plan, rung), "node": self._node_id}
            return {"rung": rung, "values": json.dumps(values), "error": "", "remark": self._remark}
        except Exception as error:
            return {"rung": rung, "values": "{}", "error": f"{type(error).__name__}: {error}", "remark": self._remark}

    def cleanup(self) -> None:
        """The actor ends."""
        if isinstance(self._evaluator, AwayEvaluator):
            self._evaluator.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: checkpoints are the evaluator's own, keyed by trial (contract 6)."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""


def _has_cuda() -> bool:
    import torch  # only where Ray has given a GPU away: this module is light

    return torch.cuda.is_available()
