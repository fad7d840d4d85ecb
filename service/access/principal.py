"""Who calls, and what they may do."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

ALL_PROJECTS = "*"


class Scope(IntEnum):
    """What a caller may do; each includes those before it."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True)
class Principal:
    """A caller. ``id`` is how logs and the audit log name it, such as ``token:4f0c2a91d3e7`` or ``jwt:alice``."""

    id: str
    projects: frozenset[str]
    scope: Scope

    @property
    def has_all_projects(self) -> bool:
        """Whether it is bound to no project."""
        return ALL_PROJECTS in self.projects

    def may_enter(self, project: str) -> bool:
        """Whether the project is one of its own."""
        return project in self.projects or self.has_all_projects


ANONYMOUS = Principal("anonymous", frozenset({ALL_PROJECTS}), Scope.ADMIN)
"""Every caller of a server without authentication."""
NOBODY = Principal("-", frozenset(), Scope.READ)
"""A caller that has not been let in (yet)."""

current_principal: ContextVar[Principal] = ContextVar("current_principal", default=NOBODY)
