from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from paretopress.client import Client
from paretopress.errors import RequestRefusedError
from paretopress.v1 import schedule_pb2, search_pb2
from search.protocols import Event
from service.errors import StoreUnavailableError
from service.interceptors.metrics import MetricsConcern
from service.monitoring.metrics import REGISTRY, StoreCollector
from service.store.database import Database
from service.store.queue_statistics import StatisticsReader
from service.store.schema import CandidateRow
from service.store.search_queue import SearchQueue
from service.store.search_store import SqlCandidateStore
from service.targets.predictors import PredictorFiles
from service.testing import InProcessServer
from service.workers.heartbeats import WorkerRegistry
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter, calibrated_predictor, record
from tests.service.ports import free_port
from tests.service.test_readiness import fetch

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\b(?:paretopress|process)_[a-z_]+")


@pytest.fixture
def monitored(tmp_path: Path) -> Iterator[tuple[InProcessServer, str]]:
    port = free_port()
    with InProcessServer(tmp_path / "data", FakeImporter(), metrics_port=port) as server:
        yield server, f"127.0.0.1:{port}"


def scrape(address: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels' values."""
    families = text_string_to_metric_families(fetch(address, "/metrics")[1])
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_calls_uploads_and_the_queue_are_counted(monitored: tuple[InProcessServer, str], tmp_path: Path) -> None:
    server, page = monitored
    before = scrape(page)
    with server.client() as client:
        search = upload_inputs(client, tmp_path)
        name = client.create_search(search).name
        with pytest.raises(RequestRefusedError):
            client.get_search("projects/default/searches/none")
        after = scrape(page)

        def grown(*key: str) -> float:
            return after.get(key, 0.0) - before.get(key, 0.0)

        assert grown("paretopress_rpcs_total", "OK", "CreateSearch") == 1
        assert grown("paretopress_rpcs_total", "NOT_FOUND", "GetSearch") == 1
        assert grown("paretopress_rpc_seconds_count", "CreateSearch") == 1
        assert after["paretopress_rpcs_in_flight", "CreateSearch"] == 0
        assert grown("paretopress_upload_bytes_total", "model") == len(b"network")
        assert after["paretopress_searches", "QUEUED"] == 1
        assert after["paretopress_oldest_queued_seconds",] > 0
        assert after["paretopress_workers_alive",] == 0
        assert after["paretopress_ready", "store"] == after["paretopress_ready", "blobs"] == 1
        watched(client, name, page)


def watched(client: Client, name: str, page: str) -> None:
    before = scrape(page)
    events = client._searches.WatchSearch(search_pb2.WatchSearchRequest(name=name))
    next(iter(events))
    during = scrape(page)
    assert during["paretopress_watch_streams",] == before["paretopress_watch_streams",] + 1
    client.cancel_search(name)
    assert len(list(events)) == 1
    after = scrape(page)
    assert after["paretopress_watch_streams",] == before["paretopress_watch_streams",]
    assert after["paretopress_watch_events_total",] == before["paretopress_watch_events_total",] + 2


def test_trials_rungs_and_predictors_are_read_from_the_store(monitored: tuple[InProcessServer, str], tmp_path: Path) -> None:
    server, page = monitored
    database = Database(server.settings.resolved_database_url)
    with server.client() as client:
        client.create_search(upload_inputs(client, tmp_path))
    claimed = SearchQueue(database, "somewhere", 60.0).claim()
    assert claimed is not None
    store = SqlCandidateStore(database, claimed.search_id, "somewhere")
    for number, rung in enumerate((0, 0, 1)):
        store.save_candidate(record(number, rung=rung, state="evaluated"), [Event("candidate", "")])
    predictors = PredictorFiles(server.settings.targets_dir)
    from hw_models.targets import get_target

    predictors.write("cpu-ort-1t", calibrated_predictor(get_target("cpu-ort-1t")).to_json())
    found = scrape(page)
    assert found["paretopress_candidates", "evaluated"] == 3
    assert (found["paretopress_trial_rungs", "0"], found["paretopress_trial_rungs", "1"]) == (2, 1)
    assert found["paretopress_workers_alive",] == 1
    assert found["paretopress_predictor_error_percent", "cpu-ort-1t"] == 3.5
    with database.write() as session:
        assert session.get(CandidateRow, (claimed.search_id, "c0000")) is not None
    database.close()


def test_schedules_are_counted_and_their_lateness_told(server: InProcessServer, client: Client, tmp_path: Path) -> None:
    schedule = schedule_pb2.Schedule(cron="0 0 * * *", template=upload_inputs(client, tmp_path))
    made = client.create_schedule(schedule)
    client.run_schedule(made.name)
    database = Database(server.settings.resolved_database_url)
    due = made.next_run_time.seconds
    assert StatisticsReader(database).read(due - 5.0).schedules_late_s == 0
    late = StatisticsReader(database).read(due + 5.0)
    assert (late.schedules_late_s, late.schedule_runs) == (5, {"SEARCH_CREATED": 1})
    database.close()


def test_a_store_that_is_away_leaves_its_figures_out(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'store.db'}", patience_s=0.0)
    registry = WorkerRegistry(database, tmp_path / "workers")
    collector = StoreCollector(StatisticsReader(database), PredictorFiles(tmp_path), lambda: len(registry.living()))
    database.migrate()
    assert len(list(collector.collect())) == len(list(collector.describe()))
    database.close()
    for path in tmp_path.glob("store.db*"):
        path.unlink()
    (tmp_path / "store.db").mkdir()
    assert [family.name for family in collector.collect()] == ["paretopress_predictor_error_percent"]


def test_calls_that_the_store_did_not_answer_are_counted() -> None:
    before = REGISTRY.get_sample_value("paretopress_database_errors_total") or 0.0
    around = MetricsConcern().around("/paretopress.v1.SearchService/GetSearch", None)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailableError), around:
        raise StoreUnavailableError("the database does not answer")
    assert REGISTRY.get_sample_value("paretopress_database_errors_total") == before + 1


def known_names() -> set[str]:
    """Of the samples that a scrape can hold."""
    class_names = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    collector = StoreCollector(None, None, lambda: 0)  # type: ignore[arg-type]
    families = [*REGISTRY.collect(), *collector.describe()]
    return {family.name + ending for family in families for ending in class_names.get(family.type, ("",))}


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "paretopress.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(panels) >= 10
    for panel in panels:
        asked = {name for target in panel["targets"] for name in NAME.findall(target["expr"])}
        assert asked, panel["title"]
        assert asked <= known_names(), panel["title"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_alerts_ask_for_metrics_that_exist() -> None:
    expressions = re.findall(r"expr: (.*)", (DEPLOY / "prometheus" / "alerts.yml").read_text())
    assert len(expressions) >= 5
    for expression in expressions:
        asked = set(NAME.findall(expression))
        assert asked, expression
        assert asked <= known_names(), expression
