"""Targets that projects have registered."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from hw_models.targets import Target
from service.errors import AlreadyExistsError, EtagMismatchError, NotFoundError, PreconditionError
from service.store import requests
from service.store.database import Database
from service.store.schema import SearchRow, TargetRow
from service.store.search_catalogue import ENDED
from service.store.specs import shown_spec

_METHOD = "create_target"


@dataclass(frozen=True)
class NewTarget:
    """A valid target about to be stored. ``name`` is the full resource name."""

    name: str
    project: str
    target: Target


@dataclass(frozen=True)
class StoredTarget(NewTarget):
    """A stored one."""

    create_time: float

    @property
    def etag(self) -> str:
        """Targets never change, so the etag says only which one of that name it is."""
        return hashlib.sha256(f"{self.name} {self.create_time} {self.target.to_json()}".encode()).hexdigest()[:16]


class TargetStore:
    """All registered targets. Values returned are snapshots."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, new: NewTarget, request_id: str = "", digest: str = "") -> StoredTarget:
        """Store one, together with the answer to its ``request_id``.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        try:
            with self._database.write() as session:
                known = requests.recall(session, new.project, _METHOD, request_id, digest)
                if known is None:
                    row = TargetRow(project=new.project, name=new.name, target_json=new.target.to_json(), create_time=time.time())
                    session.add(row)
                    requests.remember(session, new.project, _METHOD, request_id, digest, new.name)
        except IntegrityError:
            raise AlreadyExistsError(f"{new.name} exists; choose another id or delete it first") from None
        return self.get(known or new.name)

    def recall(self, project: str, request_id: str, digest: str) -> StoredTarget | None:
        """The answer that a request id got before."""
        with self._database.read() as session:
            name = requests.recall(session, project, _METHOD, request_id, digest)
        return self.get(name) if name else None

    def get(self, name: str) -> StoredTarget:
        """One by name.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.read() as session:
            return _stored(_find(session, name))

    def list(self, project: str) -> tuple[StoredTarget, ...]:
        """All of a project, by name; people register a handful."""
        with self._database.read() as session:
            rows = session.scalars(select(TargetRow).filter_by(project=project).order_by(TargetRow.name)).all()
            return tuple(_stored(row) for row in rows)

    def delete(self, name: str, etag: str = "") -> None:
        """Forget one.

        Raises:
            NotFoundError, EtagMismatchError: it is not there, or is another one by now.
            PreconditionError: a search that has not ended uses it.
        """
        with self._database.write() as session:
            row = _find(session, name)
            stored = _stored(row)
            if etag and etag != stored.etag:
                raise EtagMismatchError(f"{name} has changed since etag {etag!r}; get it again")
            users = _unfinished_searches(session, stored)
            if users:
                raise PreconditionError(f"{name} is used by {', '.join(users)}; cancel it first")
            session.execute(delete(TargetRow).where(TargetRow.id == row.id))


def _unfinished_searches(session: Session, stored: StoredTarget) -> list[str]:
    query = select(SearchRow).filter_by(project=stored.project).where(SearchRow.state.not_in(ENDED))
    rows = session.scalars(query.order_by(SearchRow.id)).all()
    return [row.name for row in rows if shown_spec(row.spec_json).target == stored.target.name]


def _find(session: Session, name: str) -> TargetRow:
    row = session.scalar(select(TargetRow).filter_by(name=name))
    if row is None:
        raise NotFoundError(f"{name} does not exist")
    return row


def _stored(row: TargetRow) -> StoredTarget:
    return StoredTarget(row.name, row.project, Target.from_json(row.target_json), row.create_time)
