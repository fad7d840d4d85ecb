"""What the server tells Prometheus. Calls are counted as they happen; what the store knows is asked at each scrape."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import StoreUnavailableError
from service.store.queue_statistics import QueueStatistics, StatisticsReader
from service.targets.predictors import PredictorFiles

_LOG = logging.getLogger("paretopress.metrics")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
RPCS = Counter("paretopress_rpcs", "Calls that have ended.", ["method", "code"], registry=REGISTRY)
RPC_SECONDS = Histogram("paretopress_rpc_seconds", "Seconds that a call took.", ["method"], buckets=_SECONDS, registry=REGISTRY)
RPCS_IN_FLIGHT = Gauge("paretopress_rpcs_in_flight", "Calls in progress.", ["method"], registry=REGISTRY)
UPLOAD_BYTES = Counter("paretopress_upload_bytes", "Bytes received of models and datasets.", ["kind"], registry=REGISTRY)
WATCH_EVENTS = Counter("paretopress_watch_events", "Events sent to watchers.", registry=REGISTRY)
WATCH_STREAMS = Gauge("paretopress_watch_streams", "Streams that follow a search.", registry=REGISTRY)
READY = Gauge("paretopress_ready", "Whether a part can be used: 1 or 0.", ["part"], registry=REGISTRY)
DATABASE_ERRORS = Counter("paretopress_database_errors", "Calls that the database or the blobs did not answer.", registry=REGISTRY)


class StoreCollector(Collector):
    """Asks the store and the predictors' files when Prometheus does. A store that is away leaves its figures out.

    Args:
        count_workers: how many workers live.
    """

    def __init__(self, reader: StatisticsReader, predictors: PredictorFiles, count_workers: Callable[[], int]) -> None:
        self._reader = reader
        self._predictors = predictors
        self._count_workers = count_workers

    def describe(self) -> Iterable[Metric]:
        """Names without values: registering must not ask the store."""
        return (*_of_store(QueueStatistics()), *_of_predictors({}), *_of_workers(0))

    def collect(self) -> Iterable[Metric]:
        """The figures now."""
        yield from _of_predictors(self._predictors.errors_percent())
        try:
            yield from _of_workers(self._count_workers())
            yield from _of_store(self._reader.read(time.time()))
        except StoreUnavailableError as error:
            _LOG.warning("no figures from the store: %s", error)


def _of_store(found: QueueStatistics) -> Iterable[Metric]:
    yield _family("paretopress_searches", "Searches by state.", "state", found.searches)
    yield _family("paretopress_candidates", "Candidates (trials) by state.", "state", found.candidates)
    yield _family("paretopress_trial_rungs", "Candidates of running searches by the rung reached.", "rung", found.rungs)
    yield _family("paretopress_calibrations", "Calibrations by state.", "state", found.calibrations)
    oldest = "Seconds for which the oldest search in the queue has waited."
    yield GaugeMetricFamily("paretopress_oldest_queued_seconds", oldest, value=found.oldest_queued_s)
    yield _family("paretopress_schedule_runs", "What became of due times, by state.", "state", found.schedule_runs)
    late = "Seconds for which the oldest due time of all schedules has been due without a run."
    yield GaugeMetricFamily("paretopress_schedules_late_seconds", late, value=found.schedules_late_s)

    behind = "Ended searches that the tracker (MLflow) does not have whole."
    yield GaugeMetricFamily("paretopress_untracked_searches", behind, value=found.untracked)


def _of_workers(count: int) -> Iterable[Metric]:
    yield GaugeMetricFamily("paretopress_workers_alive", "Workers that live.", value=count)


def _of_predictors(errors: Mapping[str, float]) -> Iterable[Metric]:
    words = "Mean error of a target's latency predictor, in percent, on networks that it was not fitted on."
    yield _family("paretopress_predictor_error_percent", words, "target", errors)


def _family(name: str, words: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
