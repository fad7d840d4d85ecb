"""API tokens in the store; of their secrets there are only digests."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.access.principal import Scope
from service.errors import NotFoundError
from service.resources import TokenName
from service.store.database import Database
from service.store.pages import Page, PageRequest
from service.store.schema import ApiTokenRow

USE_NOTED_EVERY_S = 60.0


@dataclass(frozen=True)
class NewToken:
    """A token about to be stored. Times are seconds since the epoch."""

    project: str
    token_id: str
    secret_sha256: str
    scope: Scope
    display_name: str
    all_projects: bool
    creator: str
    expire_time: float


@dataclass(frozen=True)
class StoredToken(NewToken):
    """A stored one."""

    create_time: float
    last_use_time: float | None
    revoke_time: float | None

    @property
    def name(self) -> str:
        """Its resource name."""
        return TokenName(self.project, self.token_id).name


class AccessStore:
    """All API tokens. Values returned are snapshots. Tokens are never deleted: the audit log names them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, new: NewToken) -> StoredToken:
        """Store one."""
        with self._database.write() as session:
            row = ApiTokenRow(**{**vars(new), "scope": new.scope.name}, create_time=time.time())
            session.add(row)
            session.flush()
            return _stored(row)

    def find(self, token_id: str) -> StoredToken | None:
        """One by its id, or None."""
        with self._database.read() as session:
            row = session.scalar(select(ApiTokenRow).filter_by(token_id=token_id))
            return _stored(row) if row else None

    def list(self, project: str, page: PageRequest, with_all_projects: bool) -> Page[StoredToken]:
        """A page, newest first; ``with_all_projects``: also those that are good for every project."""
        query = select(ApiTokenRow).filter_by(project=project).order_by(ApiTokenRow.id.desc())
        if not with_all_projects:
            query = query.where(ApiTokenRow.all_projects.is_(False))
        if page.after_id is not None:
            query = query.where(ApiTokenRow.id < page.after_id)
        with self._database.read() as session:
            rows = page.page(session.scalars(query.limit(page.size + 1)).all(), lambda row: row.id)
            return Page(tuple(_stored(row) for row in rows.items), rows.next_page_token)

    def revoke(self, name: TokenName, with_all_projects: bool) -> StoredToken:
        """End one; ending it again changes nothing.

        Raises:
            NotFoundError: there is none of that name, or it is good for every project and the caller is not.
        """
        with self._database.write() as session:
            row = _find(session, name)
            if row is None or (row.all_projects and not with_all_projects):
                raise NotFoundError(f"{name.name} does not exist")
            row.revoke_time = row.revoke_time or time.time()
            return _stored(row)

    def note_use(self, token_id: str, now: float) -> None:
        """Remember when a token was used, at most once a minute."""
        before = ApiTokenRow.last_use_time.is_(None) | (ApiTokenRow.last_use_time < now - USE_NOTED_EVERY_S)
        with self._database.write() as session:
            session.execute(update(ApiTokenRow).where(ApiTokenRow.token_id == token_id, before).values(last_use_time=now))


def _find(session: Session, name: TokenName) -> ApiTokenRow | None:
    return session.scalar(select(ApiTokenRow).filter_by(token_id=name.token, project=name.project))


def _stored(row: ApiTokenRow) -> StoredToken:
    return StoredToken(
        project=row.project,
        token_id=row.token_id,
        secret_sha256=row.secret_sha256,
        scope=Scope[row.scope],
        display_name=row.display_name,
        all_projects=row.all_projects,
        creator=row.creator,
        expire_time=row.expire_time,
        create_time=row.create_time,
        last_use_time=row.last_use_time,
        revoke_time=row.revoke_time,
    )
