"""Every target that a project sees: this machine's, the catalogue's, and those that the project has registered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hw_models.catalogue import datasheet_targets
from hw_models.predictor import Predictor
from hw_models.targets import Target, builtin_targets
from service.errors import AlreadyExistsError, NotFoundError, PreconditionError
from service.resources import TargetName
from service.store.target_store import NewTarget, StoredTarget, TargetStore
from service.targets.predictors import PredictorFiles, StoredPredictor

Origin = Literal["builtin", "catalogue", "registered"]


@dataclass(frozen=True)
class KnownTarget:
    """A target as a project sees it. ``stored`` is its predictor, ``etag`` is empty where the project has not registered it."""

    target: Target
    origin: Origin
    stored: StoredPredictor | None = None
    etag: str = ""


class TargetDirectory:
    """Reads and changes a project's targets. Values returned are snapshots."""

    def __init__(self, predictors: PredictorFiles, registered: TargetStore) -> None:
        self._predictors = predictors
        self._registered = registered

    def all(self, project: str) -> dict[str, KnownTarget]:
        """Every target by the last part of its name, sorted."""
        known = {stored.target.name: _registered(stored) for stored in self._registered.list(project)}
        known |= {target.name: KnownTarget(target, "catalogue") for target in datasheet_targets()}
        known |= {target.name: self._builtin(target) for target in builtin_targets()}
        return dict(sorted(known.items()))

    def get(self, name: TargetName) -> KnownTarget:
        """One by name.

        Raises:
            NotFoundError: there is none; the message lists those there are.
        """
        known = self.all(name.project)
        if name.target not in known:
            raise NotFoundError(f"target {name.target!r} does not exist; known are {sorted(known)}")
        return known[name.target]

    def predictor(self, known: KnownTarget) -> Predictor:
        """What prices networks on it: what was measured, or the data sheet's roofline.

        Raises:
            PreconditionError: it is attached and has not been calibrated yet.
        """
        if known.target.attached:
            return self._predictors.get(known.target.name).predictor
        return Predictor.uncalibrated(known.target)

    def recall(self, project: str, request_id: str, digest: str) -> KnownTarget | None:
        """The target that a request id was answered with before."""
        stored = self._registered.recall(project, request_id, digest)
        return _registered(stored) if stored else None

    def check_new(self, new: NewTarget) -> None:
        """Refuse a name that is taken.

        Raises:
            AlreadyExistsError: it is.
        """
        known = self.all(new.project).get(new.target.name)
        if known is not None:
            raise AlreadyExistsError(f"{new.name} is taken by a {known.origin} target; choose another id")

    def register(self, new: NewTarget, request_id: str, digest: str) -> KnownTarget:
        """Store a target.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        self.check_new(new)
        return _registered(self._registered.add(new, request_id, digest))

    def delete(self, name: TargetName, etag: str) -> None:
        """Forget a registered target.

        Raises:
            NotFoundError, EtagMismatchError: it is not there, or is another one by now.
            PreconditionError: it is not a registered one, or a search that has not ended uses it.
        """
        origin = self.get(name).origin
        if origin != "registered":
            raise PreconditionError(f"{name.name} is a {origin} target; only registered ones can be deleted")
        self._registered.delete(name.name, etag)

    def _builtin(self, target: Target) -> KnownTarget:
        return KnownTarget(target, "builtin", self._predictors.find(target.name))


def _registered(stored: StoredTarget) -> KnownTarget:
    return KnownTarget(stored.target, "registered", etag=stored.etag)
