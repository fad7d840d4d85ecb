"""Models and datasets: what was uploaded, and what intake found out about it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import AlreadyExistsError, EtagMismatchError, NotFoundError, PreconditionError
from service.store import requests
from service.store.database import Database
from service.store.input_facts import KnownDataset, KnownModel, known_dataset, known_model
from service.store.pages import Page, PageRequest
from service.store.quotas import NO_QUOTAS, Quotas
from service.store.schema import InputRow, SearchRow

InputKind = Literal["model", "dataset"]


@dataclass(frozen=True)
class NewInput:
    """A model or dataset about to be stored. ``facts`` is intake's answer as a JSON object."""

    name: str
    project: str
    display_name: str
    format: str
    sha256: str
    size_bytes: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class StoredInput(NewInput):
    """A stored one."""

    create_time: float

    @cached_property
    def model(self) -> KnownModel:
        """What is known of it; it is a model."""
        return known_model(self.facts)

    @cached_property
    def dataset(self) -> KnownDataset:
        """What is known of it; it is a dataset."""
        return known_dataset(self.facts)

    @property
    def etag(self) -> str:
        """Inputs never change, so the etag says only which one of that name it is."""
        return hashlib.sha256(f"{self.name} {self.create_time} {self.sha256}".encode()).hexdigest()[:16]


class InputStore:
    """All models, or all datasets."""

    def __init__(self, database: Database, kind: InputKind, quotas: Quotas = NO_QUOTAS) -> None:
        self._database = database
        self._quotas = quotas
        self.kind = kind

    def add(self, new: NewInput, request_id: str = "", digest: str = "", announced: bool = True) -> StoredInput:
        """Store one, together with the answer to its ``request_id``.

        Args:
            announced: it was uploaded, so its size was checked against the project's quota when the upload began.

        Raises:
            AlreadyExistsError: the name is taken.
            QuotaExceededError: the project may not store so much.
        """
        try:
            with self._database.write() as session:
                known = requests.recall(session, new.project, f"upload_{self.kind}", request_id, digest)
                if known is None:
                    self._quotas.check_bytes(session, new.project, 0 if announced else new.size_bytes)
                    values = {k: v for k, v in vars(new).items() if k != "facts"}
                    facts = json.dumps(dict(new.facts), sort_keys=True)
                    session.add(InputRow(kind=self.kind, facts_json=facts, create_time=time.time(), **values))
                    requests.remember(session, new.project, f"upload_{self.kind}", request_id, digest, new.name)
        except IntegrityError:
            raise AlreadyExistsError(f"{new.name} exists; choose another id or delete it first") from None
        return self.get(known or new.name)

    def recall(self, project: str, request_id: str, digest: str) -> StoredInput | None:
        """The answer that a request id got before."""
        with self._database.read() as session:
            name = requests.recall(session, project, f"upload_{self.kind}", request_id, digest)
        return self.get(name) if name else None

    def get(self, name: str) -> StoredInput:
        """One by name.

        Raises:
            NotFoundError: there is none.
        """
        found = self.find(name)
        if found is None:
            raise NotFoundError(f"{name} does not exist")
        return found

    def find(self, name: str) -> StoredInput | None:
        """One by name, or None."""
        with self._database.read() as session:
            row = session.scalar(select(InputRow).filter_by(kind=self.kind, name=name))
            return _stored(row) if row else None

    def find_same(self, project: str, sha256: str, format: str, options_sha256: str) -> StoredInput | None:
        """One of the same project, of the same bytes, read with the same options."""
        with self._database.read() as session:
            query = select(InputRow).filter_by(kind=self.kind, project=project, sha256=sha256, format=format)
            stored = map(_stored, session.scalars(query.order_by(InputRow.id.desc())))
            return next((found for found in stored if found.facts.get("options_sha256") == options_sha256), None)

    def list(self, project: str, page: PageRequest) -> Page[StoredInput]:
        """A page, newest first."""
        with self._database.read() as session:
            query = select(InputRow).filter_by(kind=self.kind, project=project).order_by(InputRow.id.desc())
            if page.after_id is not None:
                query = query.where(InputRow.id < page.after_id)
            rows = page.page(session.scalars(query.limit(page.size + 1)).all(), lambda row: row.id)
            return Page(tuple(_stored(row) for row in rows.items), rows.next_page_token)

    def delete(self, name: str, etag: str = "") -> None:
        """Forget one; its blobs go with the next collection, unless others share them.

        Raises:
            NotFoundError, EtagMismatchError: it is not there, or is another one by now.
            PreconditionError: a search that has not ended uses it.
        """
        with self._database.write() as session:
            row = session.scalar(select(InputRow).filter_by(kind=self.kind, name=name))
            if row is None:
                raise NotFoundError(f"{name} does not exist")
            if etag and etag != _stored(row).etag:
                raise EtagMismatchError(f"{name} has changed since etag {etag!r}; get it again")
            users = _unfinished_searches(session, self.kind, name)
            if users:
                raise PreconditionError(f"{name} is used by {', '.join(users)}; cancel it first")
            session.execute(delete(InputRow).where(InputRow.id == row.id))


def _unfinished_searches(session: Session, kind: InputKind, name: str) -> list[str]:
    column = SearchRow.model if kind == "model" else SearchRow.dataset
    query = select(SearchRow.name).where(column == name, SearchRow.state.in_(("QUEUED", "RUNNING")))
    return list(session.scalars(query.order_by(SearchRow.id).limit(5)))


def _stored(row: InputRow) -> StoredInput:
    return StoredInput(
        name=row.name,
        project=row.project,
        display_name=row.display_name,
        format=row.format,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        facts=MappingProxyType(json.loads(row.facts_json)),
        create_time=row.create_time,
    )
