"""The one way in which events are appended: numbered from 1 without gaps, in the transaction of what they tell."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from search.protocols import Event
from service.errors import NotFoundError
from service.store.schema import EventRow, SearchRow


def append_events(session: Session, search_id: int, events: Sequence[Event]) -> None:
    """Append within a write transaction.

    Raises:
        NotFoundError: the search was deleted meanwhile.
    """
    row = session.scalar(select(SearchRow).where(SearchRow.id == search_id).with_for_update())
    if row is None:
        raise NotFoundError("the search was deleted")
    for event in events:
        row.last_sequence += 1
        payload = json.dumps(dict(event.payload), sort_keys=True, default=str)
        values = {"kind": event.kind, "message": event.message, "payload_json": payload, "time": time.time()}
        session.add(EventRow(search_id=search_id, sequence=row.last_sequence, **values))
