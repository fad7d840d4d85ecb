"""Audits by name; none is built in yet.

A package brings one by an entry point of the group ``paretopress.audits`` that names the class. What cannot be loaded is named in
the log and left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from search.evaluation.audits.base import Audit
from search.evaluation.metrics.base import AccuracyResult, Labels
from search.limit_kinds import add_kind
from search.protocols import Measurement
from techniques.plugins import register_installed

ENTRY_POINTS = "paretopress.audits"
_LOG = logging.getLogger("paretopress.search")
_AUDITS: dict[str, Audit] = {}
AUDITS: Mapping[str, Audit] = _AUDITS


def register(audit: Audit) -> None:
    """Add an audit, and a limit of its name.

    Raises:
        ValueError: the name is taken.
    """
    add_kind(audit.limit_kind)
    _AUDITS[audit.name] = audit


def audited(original: AccuracyResult, candidate: AccuracyResult, labels: Labels | None) -> dict[str, Measurement]:
    """What all audits find."""
    found = {name: audit.measure(original, candidate, labels) for name, audit in AUDITS.items()}
    return {name: measurement for name, measurement in found.items() if measurement is not None}


register_installed(ENTRY_POINTS, register, "audit", _LOG)
