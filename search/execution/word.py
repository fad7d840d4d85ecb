"""A word from a trial's process to the driver while its rung goes on: through Ray's own key-value store, in reach of every node."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import ray
from ray.experimental import internal_kv

_NAMESPACE = b"paretopress"
_EVERY_S = 1.0


@dataclass(frozen=True)
class Word:
    """How far a trial is.

    Attributes:
        epoch, epochs: passes over the train split so far, and by the end of the last rung.
    """

    number: int
    rung: int
    epoch: float
    epochs: float


Tell = Callable[[Word], None]


class Mouth:
    """Says words of one process, once a second at most; a later one takes the place of an earlier one. Never raises: a word that is
    lost costs nothing."""

    def __init__(self) -> None:
        self._said_at = 0.0

    def say(self, word: Word) -> None:
        """Tell whoever listens."""
        if time.monotonic() - self._said_at < _EVERY_S:
            return
        self._said_at = time.monotonic()
        try:
            internal_kv._internal_kv_put(_key(), json.dumps(asdict(word)).encode(), True, namespace=_NAMESPACE)
        except Exception:  # whatever keeps Ray from taking it ends the trial in its own way
            return


class Ear:
    """Hears in the driver what trials say from now on; asks once a second at most."""

    def __init__(self) -> None:
        self._asked_at, self._heard = 0.0, _said()

    def new_word(self) -> Word | None:
        """The latest word, if it was not heard before."""
        if time.monotonic() - self._asked_at < _EVERY_S:
            return None
        self._asked_at = time.monotonic()
        said = _said()
        if not said or said == self._heard:
            return None
        self._heard = said
        return Word(**json.loads(said))


def _said() -> bytes:
    try:
        return internal_kv._internal_kv_get(_key(), namespace=_NAMESPACE) or b""
    except Exception:  # Ray is away: what runs the trials hears of it
        return b""


def _key() -> bytes:
    """One for each search that runs in a cluster."""
    return f"word/{ray.get_runtime_context().get_job_id()}".encode()
