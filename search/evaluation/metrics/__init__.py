"""Metrics by name. Adding one: write its file and add it to the tuple below, or install a package that brings it.

A package of your own brings metrics by an entry point of the group ``paretopress.metrics`` that names the class; requests ask for
them by name (``Search.metric_name``). What cannot be loaded is named in the log and left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from search.evaluation.metrics.agreement import Agreement
from search.evaluation.metrics.auroc import Auroc
from search.evaluation.metrics.base import Metric
from search.evaluation.metrics.macro_f1 import MacroF1
from search.evaluation.metrics.top_k import Top1, Top5
from techniques.plugins import register_installed

ENTRY_POINTS = "paretopress.metrics"
_LOG = logging.getLogger("paretopress.search")
_METRICS: dict[str, Metric] = {}
METRICS: Mapping[str, Metric] = _METRICS


def register(metric: Metric) -> None:
    """Add a metric.

    Raises:
        ValueError: the name is taken.
    """
    if metric.name in _METRICS:
        raise ValueError(f"metric {metric.name!r} is registered twice")
    _METRICS[metric.name] = metric


for _metric in (Top1(), Top5(), MacroF1(), Auroc(), Agreement()):
    register(_metric)
register_installed(ENTRY_POINTS, register, "metric", _LOG)
