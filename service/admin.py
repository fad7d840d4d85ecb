"""``python -m service.admin create-token|list-tokens|revoke-token``: tokens by hand, straight on the database.

For the first token of a server, and for the day on which the last administrator's has expired. Whoever can run this can read
the database anyway. Settings come from the environment; the secret is printed once, alone, on standard output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from paretopress.v1 import access_pb2
from service.access.audit import AuditEntry, AuditLog
from service.access.granting import grant_token
from service.access.principal import Scope
from service.converters.access import token_from_proto
from service.errors import ServiceError
from service.resources import ProjectName, TokenName
from service.settings import Settings
from service.store.access_store import AccessStore, StoredToken
from service.store.database import Database
from service.store.pages import PageRequest

CREATOR = "operator"


def create(store: AccessStore, options: argparse.Namespace) -> StoredToken:
    """Make a token and show it."""
    token = access_pb2.Token(
        display_name=options.name, scope=access_pb2.Token.Scope.Value(options.scope.upper()), all_projects=options.all_projects
    )
    if options.days is not None:
        token.expire_time.FromSeconds(int(datetime.now(UTC).timestamp() + options.days * 24 * 3600))
    asked = token_from_proto(access_pb2.CreateTokenRequest(parent=ProjectName(options.project).name, token=token))
    stored, made = grant_token(store, asked, CREATOR)
    print(f"{_line(stored)}; this is shown once:", file=sys.stderr)
    print(made.text)
    return stored


def show(store: AccessStore, options: argparse.Namespace) -> None:
    """A line for each token of a project."""
    scope, page_token = f"tokens of {options.project}", ""
    while True:
        page = store.list(options.project, PageRequest.parse(0, page_token, scope), with_all_projects=True)
        for stored in page.items:
            print(_line(stored))
        if not page.next_page_token:
            return
        page_token = page.next_page_token


def revoke(store: AccessStore, options: argparse.Namespace) -> StoredToken:
    """End a token."""
    stored = store.revoke(TokenName.from_name(options.name), with_all_projects=True)
    print(_line(stored))
    return stored


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line entry."""
    options = _parser().parse_args(arguments)
    try:
        settings = Settings()
        database = Database(settings.resolved_database_url)
        database.migrate()
        changed = options.action(AccessStore(database), options)
        database.close()
        if changed is not None:
            _audit(settings, changed, options.command)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.admin", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("create-token", help="make a token")
    make.add_argument("--project", default="default", help="the project that it is for")
    make.add_argument("--all-projects", action="store_true", help="it is good for every project")
    make.add_argument("--scope", choices=[scope.name.lower() for scope in Scope], default="read", help="each includes those before")
    make.add_argument("--days", type=float, help="days until it ends; 90 if not given")
    make.add_argument("--name", default="", help="title for people")
    make.set_defaults(action=create)
    listing = commands.add_parser("list-tokens", help="list a project's tokens")
    listing.add_argument("--project", default="default", help="the project")
    listing.set_defaults(action=show)
    end = commands.add_parser("revoke-token", help="end a token")
    end.add_argument("name", help="projects/{project}/tokens/{token}")
    end.set_defaults(action=revoke)
    return parser


def _audit(settings: Settings, changed: StoredToken, command: str) -> None:
    log = AuditLog(settings.audit_dir, settings.audit_retention_days)
    log.record(AuditEntry(CREATOR, changed.project, f"service.admin {command}", changed.name, "OK", "", "-", "local"))
    log.close()


def _line(stored: StoredToken) -> str:
    where = "every project" if stored.all_projects else f"project {stored.project}"
    end = datetime.fromtimestamp(stored.expire_time, UTC).strftime("%Y-%m-%d %H:%M UTC")
    state = "revoked" if stored.revoke_time is not None else f"until {end}"
    return f"{stored.name}  {stored.scope.name.lower()} of {where}, {state}  {stored.display_name}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
