"""Which errors of a driver mean that the database cannot be reached, or will not take the value."""

from __future__ import annotations

import logging

from sqlalchemy.exc import DataError, DBAPIError, OperationalError, TimeoutError

from service.errors import InvalidRequestError, ServiceError, StoreUnavailableError

_LOG = logging.getLogger("paretopress.store")
_NEVER_CONNECTED = ""
_RESTARTING = frozenset({"57P01", "57P02", "57P03", "53300"})
"""PostgreSQL: shut down by its administrator, crashed, starting, out of connections."""
_SQLITE_AWAY = frozenset({5, 6, 8, 10, 13, 14})
"""SQLite's primary codes for busy, locked, read only, input/output, full, cannot open."""


def sqlstate(error: DBAPIError) -> str:
    """PostgreSQL's code; empty where there was no connection that could have given one."""
    return str(getattr(error.orig, "sqlstate", None) or _NEVER_CONNECTED)


def is_restarting(error: DBAPIError) -> bool:
    """Whether a new connection may work in a moment. SQLite has waited inside its busy timeout already."""
    if hasattr(error.orig, "sqlite_errorcode") or not isinstance(error, OperationalError):
        return False
    code = sqlstate(error)
    return error.connection_invalidated or code == _NEVER_CONNECTED or code.startswith("08") or code in _RESTARTING


def translated(error: Exception) -> ServiceError | None:
    """The service's own error, the details only in the log; None where the fault is ours."""
    if isinstance(error, DataError):
        return InvalidRequestError.of(
            "request", "holds a text or a number that the store cannot keep (a NUL character, or too long)"
        )
    if isinstance(error, TimeoutError):
        return _away(error, "has too much to do")
    if not isinstance(error, DBAPIError):
        return None
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return _away(error, "is busy or cannot be written") if code & 0xFF in _SQLITE_AWAY else None
    if error.connection_invalidated or isinstance(error, OperationalError):
        return _away(error, "does not answer")
    return None


def _away(error: Exception, what: str) -> StoreUnavailableError:
    cause = getattr(error, "orig", None) or error
    _LOG.warning("the database %s: %s", what, str(cause).strip())
    return StoreUnavailableError(f"the database {what}; try again in a moment")
