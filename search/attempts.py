"""What a technique does to a network is attempted: whatever it raises, and every step beyond a stated time, is a skipped option.

A technique meets networks that nobody has thought of. It may raise anything, loop for ever, or take all memory; none of this may
end a search (contract 16). `supervised` ends a function from outside when its time is up or the search is to stop, `attempt` turns
whatever goes wrong into a reason, and `Attempts` remembers in the store what a process has died of.

How a function is ended: a thread asks twice a second, and raises an exception in the supervised thread (CPython's
``PyThreadState_SetAsyncExc``). It arrives between two bytecodes, so a loop of Python ends at once, and a network that is run node
by node after the node. A single call into C cannot be ended; if one has not come back for `LAST_RESORT_S`, the process ends, the
next one takes the search over, and what killed two processes is not tried again.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from hw_models.errors import HardwareModelError
from search.errors import OptionSkippedError, OutsideError, SearchCancelledError, SearchError, TimeLimitError
from search.protocols import CandidateStore, Progress
from techniques.errors import TechniqueError

STEP_LIMIT_S = 60.0
"""What changing a network's structure may take: enumerating places, one option applied, one recipe priced. Grouping the channels of
the largest networks that we know of takes 10 s. Whatever runs images gets the time for these on top."""
LAST_RESORT_S = 300.0
MAX_DEATHS = 2
PHASE = "attempts"
_POLL_S = 0.5
_MAX_REASON = 300
_LOG = logging.getLogger("paretopress.search")
ON_PURPOSE = (TechniqueError, SearchError, HardwareModelError)
Result = TypeVar("Result")


def reason_of(error: BaseException) -> str:
    """One line for people: what was raised on purpose speaks for itself, anything else is named by its type."""
    lines = str(error).strip().splitlines()
    line = lines[0][:_MAX_REASON] if lines else ""
    return line if line and isinstance(error, ON_PURPOSE) else f"{type(error).__name__}: {line}".removesuffix(": ")


def unexpected(where: str, error: BaseException) -> str:
    """What people are told of an error that nobody has thought of: where it was and its type; the rest is for the log."""
    advice = "this is a fault of Paretopress and not of the request; please report it with what the worker's log says"
    return f"{where}: {type(error).__name__}; {advice}"


def attempt(
    what: str, function: Callable[[], Result], should_stop: Callable[[], bool] = lambda: False, limit_s: float = STEP_LIMIT_S
) -> Result:
    """Call a function that works on an option; the log gets the traceback of what was not raised on purpose.

    Raises:
        OptionSkippedError: it raised, or took more than ``limit_s`` (`TimeLimitError`); the message is the reason.
        OutsideError: it is no fault of the option: the search is to stop, the runtime or the store is away.
    """
    try:
        return supervised(function, should_stop, limit_s)
    except (OutsideError, OptionSkippedError):
        raise
    except Exception as error:
        reason = reason_of(error)
        _LOG.log(logging.DEBUG if isinstance(error, ON_PURPOSE) else logging.WARNING, "%s: %s", what, reason, exc_info=True)
        raise OptionSkippedError(reason) from error


def supervised(function: Callable[[], Result], should_stop: Callable[[], bool], limit_s: float) -> Result:
    """Call a function in this thread and end it when ``should_stop`` says so or its time is up.

    What it has begun is left as after a kill, so nothing that must be whole (a database) may be written in it.

    Args:
        should_stop: asked from another thread, twice a second.

    Raises:
        SearchCancelledError: ``should_stop`` said so.
        TimeLimitError: it took more than ``limit_s``.
    """
    # A class of its own: supervised functions may stand in one another, and each takes its own interruptions only.
    interruption: type[BaseException] = type("Interruption", (_Interruption,), {})
    watch = _Watch(interruption, should_stop, limit_s)
    threading.Thread(target=watch.run, name="watch", daemon=True).start()
    try:
        try:
            result = function()
        finally:
            watch.end()
    except (interruption, Exception) as error:
        watch.end()  # again, if the interruption came right while the watch was ended
        if not watch.verdict:
            raise
        raise watch.verdict from error
    return result


class _Interruption(BaseException):
    """Raised from outside, past every ``except Exception`` of the code that it ends."""


class _Watch:
    """Watches over the thread that made it until `end`."""

    def __init__(self, interruption: type[BaseException], should_stop: Callable[[], bool], limit_s: float) -> None:
        self.verdict: SearchCancelledError | TimeLimitError | None = None
        self._interruption, self._should_stop, self._limit_s = interruption, should_stop, limit_s
        self._thread = threading.current_thread()
        self._lock, self._over = threading.Lock(), threading.Event()

    def end(self) -> None:
        """No interruption comes after this."""
        with self._lock:
            self._over.set()
            self._raise(None)

    def run(self) -> None:
        """The watching thread: ask, and once there is a verdict, interrupt until somebody gives way."""
        begin = time.monotonic()
        while not self._over.wait(min(_POLL_S, max(begin + self._limit_s - time.monotonic(), 0.01))):
            if time.monotonic() - begin > self._limit_s:
                self.verdict = TimeLimitError(f"took more than {self._limit_s:.0f} s and was stopped")
            elif self._stop():
                self.verdict = SearchCancelledError("cancelled on request")
            if self.verdict:
                self._interrupt()
                return

    def _stop(self) -> bool:
        try:
            return self._should_stop()
        except Exception:  # a store that is away; whoever works with it will hear of it
            return False

    def _interrupt(self) -> None:
        last_resort = time.monotonic() + LAST_RESORT_S
        while True:
            with self._lock:
                if not self._over.is_set():
                    self._raise(self._interruption)
            if self._over.wait(_POLL_S):
                return
            if time.monotonic() > last_resort and self._thread is threading.main_thread():
                _LOG.critical("a call into C has not come back %.0f s after it was to end: this process ends", LAST_RESORT_S)
                os._exit(1)

    def _raise(self, interruption: type[BaseException] | None) -> None:
        identity = ctypes.c_ulong(self._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(interruption) if interruption else None)


class Attempts:
    """Attempts of one search, with a memory in its store: what two processes have died of is skipped by the third.

    Args:
        limit_s: what the structural part of one attempt may take.
        ends_at: of `time.monotonic`: when the time for all of them is up.
    """

    def __init__(self, store: CandidateStore, limit_s: float = STEP_LIMIT_S, ends_at: float = math.inf) -> None:
        self._store, self.limit_s, self.ends_at = store, limit_s, ends_at
        noted = store.phase(PHASE) or {}
        self._died: dict[str, int] = dict(noted.get("died", {}))
        if noted.get("trying"):
            self._died[noted["trying"]] = self._died.get(noted["trying"], 0) + 1
        self._noted = bool(noted)

    def attempt(self, what: str, function: Callable[[], Result], more_s: float = 0.0) -> Result:
        """`attempt`, noted in the store while it lasts: whatever ends the process later is not its fault.

        Args:
            what: the same in every life of the search.
            more_s: seconds that running images may take on top of the limit.

        Raises:
            OptionSkippedError, OutsideError: see `attempt`.
        """
        if self._died.get(what, 0) >= MAX_DEATHS:
            raise OptionSkippedError(f"{MAX_DEATHS} processes died while it was tried; it may take more memory than there is")
        limit_s = min(self.limit_s + more_s, self.ends_at - time.monotonic())
        if limit_s <= 0:
            raise OptionSkippedError("not tried: the time was up")
        self._note(what)
        try:
            result = attempt(what, function, self._store.should_stop, limit_s)
        except (OutsideError, OptionSkippedError):
            self._note("")
            raise
        self._note("")
        return result

    def show(self, phase: str, message: str) -> None:
        """What is being tried, for whoever looks."""
        self._store.show(Progress(phase, message))

    def done(self) -> None:
        """What comes now is no attempt: a death is nobody's fault."""
        if self._noted:
            self._note("")

    def _note(self, trying: str) -> None:
        self._store.save_phase(PHASE, {"trying": trying, "died": self._died})
        self._noted = True
