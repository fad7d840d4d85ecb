"""Asking something that may hang, with an end to the waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable

from service.errors import StoreUnavailableError


class Probe:
    """Calls a function in a thread of its own and waits for it a limited time. While a call hangs, no second one is made.

    Args:
        what: what is asked, for the message.
    """

    def __init__(self, what: str, function: Callable[[], None]) -> None:
        self._what = what
        self._function = function
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def ask(self, timeout_s: float) -> None:
        """Return if the function returned.

        Raises:
            StoreUnavailableError: it raised, or did not return within ``timeout_s``.
        """
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._call, name=f"probe of {self._what}", daemon=True)
                self._thread.start()
            thread = self._thread
        thread.join(timeout_s)
        if thread.is_alive():
            raise StoreUnavailableError(f"{self._what} has not answered within {timeout_s:g} s")
        if self._error is not None:
            raise StoreUnavailableError(f"{self._what} cannot be used ({type(self._error).__name__}); the log has the details")

    def _call(self) -> None:
        try:
            self._function()
            self._error = None
        except Exception as error:
            self._error = error
