"""``python -m service.maintenance collect|check``: upkeep by hand, straight on the stores; settings come from the environment.

``collect`` deletes what the retention settings say (the server does it hourly), ``--dry-run`` only counts it. ``check`` says what
in the store contradicts itself; it exits with 1 if anything does.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from service.errors import ServiceError
from service.settings import Settings
from service.store.blobs import blob_store
from service.store.database import Database
from service.store.invariants import violations
from service.store.retention import Collector
from service.store.upload_store import UploadStore
from service.upkeep import retention_policy


def collect(settings: Settings, database: Database, dry_run: bool) -> int:
    """Delete what is due and say how much; waits a minute before blobs go."""
    uploads = UploadStore(database, settings.uploads_dir, settings.max_upload_bytes)
    stores = (database, blob_store(settings), uploads, settings.work_dir)
    collected = Collector(*stores, retention_policy(settings)).collect(dry_run)
    print(f"{'would delete' if dry_run else 'deleted'} {collected}")
    return 0


def check(database: Database) -> int:
    """Print what is wrong, a line each."""
    with database.read() as session:
        found = violations(session)
    print("\n".join(found) or "the store is consistent")
    return 1 if found else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m service.maintenance", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("collect", help="delete what is due").add_argument("--dry-run", action="store_true", help="only count it")
    commands.add_parser("check", help="look for contradictions in the store")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="WARNING", format="%(asctime)s %(name)s %(levelname)s %(message)s")
    settings = Settings()
    try:
        database = Database(settings.resolved_database_url)
        database.migrate()
        return collect(settings, database, options.dry_run) if options.command == "collect" else check(database)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
