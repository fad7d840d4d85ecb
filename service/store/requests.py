"""Idempotency: the same ``request_id`` gives the same answer, and cannot be used for another request."""

from __future__ import annotations

import hashlib
import re

from google.protobuf.message import Message
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import AlreadyExistsError, InvalidRequestError
from service.store.schema import RequestRow


def fingerprint(request: Message) -> str:
    """Digest of a request's content."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()


def recall(session: Session, project: str, method: str, request_id: str, digest: str) -> str | None:
    """Name of the resource that this request gave before; None if it is new or carries no id.

    Raises:
        AlreadyExistsError: the id was used for a request with another content.
        InvalidRequestError: the id has characters that it must not have.
    """
    if not request_id:
        return None
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", request_id):
        raise InvalidRequestError.of("request_id", "must be 1 to 64 of A-Z a-z 0-9 _ -")
    row = session.scalar(select(RequestRow).filter_by(project=project, method=method, request_id=request_id))
    if row is not None and row.fingerprint != digest:
        raise AlreadyExistsError(f"request_id {request_id!r} was used for another {method} request; take a new one")
    return row.resource if row else None


def remember(session: Session, project: str, method: str, request_id: str, digest: str, resource: str) -> None:
    """Keep the answer of a request in the transaction that made it."""
    if request_id:
        session.add(RequestRow(project=project, method=method, request_id=request_id, fingerprint=digest, resource=resource))
