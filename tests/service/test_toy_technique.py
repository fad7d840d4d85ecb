"""A technique, a metric and an audit that Paretopress has never heard of take part in a search over the real service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretopress.client import Client
from paretopress.errors import RequestRefusedError
from paretopress.v1 import search_pb2, technique_pb2
from tests.service.digits_search import Inputs, place_predictors, search, upload
from tests.service.serving import ROOT, serve

pytestmark = pytest.mark.timeout(400)
NAME, METRIC, AUDIT = "kernel_cropping", "worst_class", "class_drop_points"
TECHNIQUES = (NAME, "input_resolution", "structured_pruning")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a server beside which a package is installed that brings the technique."""
    packages = tmp_path_factory.mktemp("packages")
    for name, source in (("toy", NAME), ("toy_metric", METRIC), ("toy_audit", "class_drop")):
        (packages / f"{name}.py").write_text((Path(__file__).parent / f"{source}.py").read_text())
    facts = packages / "toy-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    entries = f"[paretopress.techniques]\n{NAME} = toy:KernelCropping\nbroken = toy:NotThere\n"
    entries += f"[paretopress.metrics]\n{METRIC} = toy_metric:WorstClass\n[paretopress.audits]\n{AUDIT} = toy_audit:ClassDrop\n"
    (facts / "entry_points.txt").write_text(entries)
    folder = tmp_path_factory.mktemp("data")
    place_predictors(folder)
    path = os.pathsep.join((str(ROOT), str(packages)))
    process, address = serve(folder, tmp_path_factory.mktemp("logs") / "server.log", {"PYTHONPATH": path})
    try:
        with Client(address) as made:
            yield made
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def test_it_is_listed_with_its_paper(client: Client) -> None:
    listed = {one.name: one for one in client.list_techniques()}
    assert len(listed) == 7, "what cannot be loaded is left out, and hides nothing"
    toy = listed[NAME]
    assert (toy.axis, toy.stage, list(toy.reduces)) == (technique_pb2.RANK, "rank", ["macs", "parameters"])
    assert (toy.cites, toy.not_supported_on) == ("nobody 2026, a toy", "networks without 3x3 convolutions")


def test_it_is_searched_chosen_and_told_of(client: Client, inputs: Inputs, tmp_path: Path) -> None:
    model, dataset = upload(client, inputs)
    budget = search_pb2.Budget(max_accuracy_drop_points=95.0)
    request = search(model, dataset, budget, trials=8, techniques=TECHNIQUES)
    request.metric_name = METRIC
    request.budget.limits[AUDIT] = 99.0
    ended = client.wait(client.create_search(request).name)
    assert ended.state == search_pb2.Search.SUCCEEDED, ended.state_message
    recipe = json.loads(client.get_candidate(ended.best).recipe_json)
    (mine,) = [step for step in recipe["steps"] if step["technique"] == NAME]
    assert mine["config"]["layers"]
    client.download_artifact(ended.name, "report.json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    told = {one["technique"]: one for one in report["techniques"]}
    assert told[NAME]["cites"] == "nobody 2026, a toy"
    assert told[NAME]["options"] > 5
    assert told[NAME]["saves_at_most_ms"] > 0
    assert told[NAME]["reason"] == ""
    assert set(told) == set(TECHNIQUES)
    assert report["metric"] == ended.metric_name == METRIC
    assert 0 < report["baseline"]["accuracy"] < 1
    assert report["baseline"]["audits"][AUDIT]["value"] == 0
    assert 0 < report["best"]["audits"][AUDIT]["value"] <= 99.0
    assert client.get_candidate(ended.best).measurements[AUDIT].value == report["best"]["audits"][AUDIT]["value"]


def test_a_metric_that_nobody_knows_is_refused(client: Client, inputs: Inputs) -> None:
    model, dataset = upload(client, inputs)
    request = search(model, dataset, search_pb2.Budget(max_accuracy_drop_points=1.0))
    request.metric_name = "luck"
    with pytest.raises(RequestRefusedError, match="worst_class"):
        client.validate_search(request)
