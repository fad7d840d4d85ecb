"""The targets' calibrated predictors, one JSON file each; made by workers, read by the server."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from hw_models.targets import Target, builtin_targets
from service.errors import NotFoundError, PreconditionError


class PredictorFiles:
    """A folder of predictors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def targets(self) -> dict[str, Target]:
        """Every target by name."""
        return {target.name: target for target in builtin_targets()}

    def target(self, name: str) -> Target:
        """One target.

        Raises:
            NotFoundError: there is none; the message lists those there are.
        """
        known = self.targets()
        if name not in known:
            raise NotFoundError(f"target {name!r} does not exist; known are {sorted(known)}")
        return known[name]

    def path(self, target: str) -> Path:
        """Where a target's predictor lies, once it is there."""
        return self._folder / f"{target}.json"

    def exists(self, target: str) -> bool:
        """Whether the target has been calibrated."""
        return self.path(target).is_file()

    def read(self, target: str) -> str:
        """A predictor's JSON text.

        Raises:
            PreconditionError: the target has not been calibrated yet.
        """
        try:
            return self.path(target).read_text()
        except FileNotFoundError:
            message = f"target {target!r} has not been calibrated yet; a worker does it in its first minutes, try again later"
            raise PreconditionError(message) from None

    def write(self, target: str, text: str) -> None:
        """Store a predictor; readers see the old one or the new one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{target}.{secrets.token_hex(4)}"
        temporary.write_text(text)
        os.replace(temporary, self.path(target))
