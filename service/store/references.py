"""Which blobs the rows speak of."""

from __future__ import annotations

import re

from sqlalchemy import String, Text, select
from sqlalchemy.orm import Session

from service.store.schema import Base

_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_ROWS_AT_ONCE = 500


def referenced_digests(session: Session) -> set[str]:
    """Every sha256 that stands in any text of any table.

    That is more than the columns that are meant to name blobs: what a new table or a new kind of JSON refers to is safe from the
    collection without anybody thinking of it. A digest of something else keeps a blob only if it is that blob's.
    """
    found: set[str] = set()
    for table in Base.metadata.sorted_tables:
        columns = [column for column in table.columns if isinstance(column.type, String | Text) and _may_hold_one(column.type)]
        if columns:
            for row in session.execute(select(*columns).execution_options(yield_per=_ROWS_AT_ONCE)):
                for value in row:
                    found.update(_DIGEST.findall(value or ""))
    return found


def _may_hold_one(kind: String) -> bool:
    return kind.length is None or kind.length >= 64
