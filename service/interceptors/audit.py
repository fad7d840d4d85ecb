"""Writes every change and every refusal to the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpc import aio

from service.access.audit import AuditEntry, AuditLog
from service.access.principal import current_principal
from service.access.rules import rule_of
from service.errors import (
    ForeignProjectError,
    PermissionDeniedError,
    QuotaExceededError,
    UnauthenticatedError,
    describe_error,
)
from service.interceptors.auth import current_resource
from service.interceptors.request_id import current_request_id
from service.interceptors.wrapping import Concern
from service.resources import project_of

_REFUSALS = (UnauthenticatedError, PermissionDeniedError, ForeignProjectError, QuotaExceededError)


class AuditConcern(Concern):
    """Stands inside the error translation and outside of the gate, so that it sees who was turned away."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    @contextmanager
    def around(self, method: str, context: aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """Write how the call ended, if it is of the kind that is written."""
        rule = rule_of(method)
        if rule.is_open:
            yield
            return
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            if rule.changes:
                self._log.record(_entry(method, context, "CANCELLED", ""))
            raise
        except _REFUSALS as error:
            facts = describe_error(error)
            reason = "FOREIGN_PROJECT" if isinstance(error, ForeignProjectError) else facts.reason
            self._log.record_refusal(_entry(method, context, facts.code.name, reason))
            raise
        except Exception as error:
            if rule.changes:
                facts = describe_error(error)
                self._log.record(_entry(method, context, facts.code.name, facts.reason))
            raise
        if rule.changes:
            self._log.record(_entry(method, context, "OK", ""))


def _entry(method: str, context: aio.ServicerContext[Any, Any], outcome: str, reason: str) -> AuditEntry:
    resource = current_resource.get()
    return AuditEntry(
        principal=current_principal.get().id,
        project=project_of(resource) or "",
        method=method,
        resource=resource,
        outcome=outcome,
        reason=reason,
        request_id=current_request_id.get(),
        peer=context.peer(),
    )
