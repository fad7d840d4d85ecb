"""Candidates and events as JSON texts with type and version, and back; the candidates of a search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from search.protocols import CandidateRecord, Measurement, RungReading
from search.tracking.described import SearchOrigin
from service.store.schema import CandidateRow, SearchRow


def candidate_to_json(record: CandidateRecord) -> str:
    """Canonical text of a candidate; infinities are kept."""
    return json.dumps({"type": "candidate", "version": 1, **asdict(record)}, sort_keys=True)


def candidate_from_json(text: str) -> CandidateRecord:
    """Read what `candidate_to_json` wrote.

    Raises:
        ValueError: not a candidate of a known version.
    """
    data: dict[str, Any] = json.loads(text)
    if data.pop("type", None) != "candidate" or data.pop("version", None) != 1:
        raise ValueError("not a candidate of a known version")
    data["accuracy_interval"] = {k: (v[0], v[1]) for k, v in data["accuracy_interval"].items()}
    data["drop_points"] = {k: (v[0], v[1], v[2]) for k, v in data["drop_points"].items()}
    data["earlier"] = tuple(_reading(one) for one in data.get("earlier", ()))
    data["measurements"] = {k: Measurement(**v) for k, v in data["measurements"].items()}
    return CandidateRecord(**data)


def _reading(data: dict[str, Any]) -> RungReading:
    low, high = data["interval"]
    estimate, least, most = data["drop_points"]
    return RungReading(data["rung"], data["accuracy"], (low, high), (estimate, least, most))


def candidates_of(session: Session, search_id: int) -> Sequence[CandidateRecord]:
    """All candidates of a search, by trial number."""
    query = select(CandidateRow.record_json).filter_by(search_id=search_id)
    texts = session.scalars(query.order_by(CandidateRow.trial_number, CandidateRow.candidate_id))
    return [candidate_from_json(text) for text in texts]


def origin_of(row: SearchRow) -> SearchOrigin:
    """What its request called a search, its model and its dataset."""
    return SearchOrigin(row.display_name, row.model, row.dataset)
