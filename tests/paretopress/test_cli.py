from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from paretopress.cli.app import app
from paretopress.cli.choices import names
from paretopress.cli.context import UsageError
from paretopress.cli.live import growing_front
from paretopress.v1 import search_pb2
from service.converters.candidates import candidate_to_proto
from service.testing import InProcessServer
from tests.service.fakes import PLACES, FakeImporter, FakeTools, finds_three, record

RUNNER = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessServer]:
    data_dir = tmp_path_factory.mktemp("cli")
    with InProcessServer(data_dir, FakeImporter(), FakeTools(finds_three)) as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "net.onnx").write_bytes(b"network")
    (tmp_path / "data.npz").write_bytes(b"images")
    return tmp_path


def invoke(server: InProcessServer, *arguments: object) -> Result:
    return RUNNER.invoke(app, ["--address", server.address, *map(str, arguments)])


def invoke_json(server: InProcessServer, *arguments: object) -> Any:
    result = invoke(server, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def run_search(server: InProcessServer, files: Path) -> Any:
    limits = ("--latency-ms", 1.5, "--max-drop", 1.0)
    return invoke_json(server, "search", files / "net.onnx", files / "data.npz", *limits)


def test_search_uploads_follows_and_shows_the_table(server: InProcessServer, files: Path) -> None:
    result = invoke(server, "search", files / "net.onnx", files / "data.npz", "--latency-ms", 1.5, "--max-drop", 1.0)
    assert result.exit_code == 0, result.output
    for words in (PLACES, "SUCCEEDED", "accuracy", "speed-up", "ratio", "c0002", "+0.40 (+0.20..+0.60)", "90.00%"):
        assert words in result.output


def test_search_as_json_has_baseline_best_and_front(server: InProcessServer, files: Path) -> None:
    answer = run_search(server, files)
    assert answer["search"]["state"] == "SUCCEEDED"
    assert answer["best"]["name"] == answer["search"]["best"]
    assert len(answer["front"]) == 3
    assert answer["places"] == PLACES
    assert answer["baseline"]["measurements"]["latency_ms"]["source"] == "MEASURED"


def test_searches_show_list_pick_extend_cancel_delete(server: InProcessServer, files: Path) -> None:
    name = run_search(server, files)["search"]["name"]
    short = name.rpartition("/")[2]
    assert invoke_json(server, "searches", "show", short)["search"]["name"] == name
    assert name in [s["name"] for s in invoke_json(server, "searches", "list")]
    assert short in invoke(server, "searches", "list").output
    picked = invoke_json(server, "searches", "pick", short, "--max-drop", 0.3)
    assert picked["candidate"]["name"].endswith("c0001")
    assert invoke(server, "searches", "pick", short, "--latency-ms", 0.1).exit_code == 3
    extended = invoke_json(server, "searches", "extend", short, "--trials", 3)
    assert extended["search"]["effort"]["max_trials"] == 27
    assert invoke_json(server, "searches", "cancel", short)["state"] == "SUCCEEDED"
    lines = invoke(server, "searches", "watch", short, "--json").stdout.splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == [str(i) for i in range(1, len(lines) + 1)]
    assert invoke(server, "searches", "watch", short).exit_code == 0
    assert invoke_json(server, "searches", "delete", short) == {"deleted": name}


def test_candidates_list_show_download(server: InProcessServer, files: Path) -> None:
    name = run_search(server, files)["search"]["name"].rpartition("/")[2]
    assert len(invoke_json(server, "candidates", "list", name)) == 4
    assert len(invoke_json(server, "candidates", "list", name, "--front")) == 3
    assert "c0001" in invoke(server, "candidates", "list", name).output
    assert invoke_json(server, "candidates", "show", f"{name}/c0001")["trial_number"] == 1
    assert "model.onnx" in invoke(server, "candidates", "show", f"{name}/c0001").output
    answer = invoke_json(server, "candidates", "download", f"{name}/c0001", "--out", files / "out")
    assert [Path(p).read_bytes() for p in answer["files"]] == [b"onnx" * 1000]


def test_models_and_datasets(server: InProcessServer, files: Path) -> None:
    model = invoke_json(server, "models", "upload", files / "net.onnx", "--id", "net")
    assert model["name"] == "projects/default/models/net"
    assert invoke_json(server, "models", "show", "net")["parameters"] == "1000"
    assert "net" in invoke(server, "models", "list").output
    preprocessing = ("--height", 28, "--width", 28, "--channels", 1, "--mean", "0.5", "--std", "0.25", "--range=-1..1")
    dataset = invoke_json(server, "datasets", "upload", files / "data.npz", *preprocessing, "--resize", "stretch", "--id", "data")
    assert dataset["preprocessing"]["mean"] == [0.5]
    assert dataset["preprocessing"]["range"] == "MINUS_ONE_TO_ONE"
    assert dataset["preprocessing"]["resize"] == "STRETCH"
    assert "train 70" in invoke(server, "datasets", "show", "data").output
    for noun, name in (("models", "net"), ("datasets", "data")):
        assert invoke_json(server, noun, "delete", name)["deleted"].endswith(name)
    assert "cpu-ort-1t" in invoke(server, "targets", "list").output


def test_names_of_classes_come_with_commas_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffcat\n\nbig, red dog\n", encoding="utf-8")
    assert names("", "--class-names") == []
    assert names("cat, dog", "--class-names") == ["cat", "dog"]
    assert names(f"@{tmp_path / 'names.txt'}", "--class-names") == ["cat", "big, red dog"]
    with pytest.raises(UsageError, match=r"--class-names: missing\.txt cannot be read"):
        names("@missing.txt", "--class-names")


def test_validate_only_tells_the_time(server: InProcessServer, files: Path) -> None:
    limits = ("--latency-ms", 1.5, "--max-drop", 1.0, "--validate-only")
    result = invoke(server, "search", files / "net.onnx", files / "data.npz", *limits)
    assert "minutes" in result.output


def command(server: InProcessServer, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", "from paretopress.cli import main; main()", "--address", server.address, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_every_field_violation_is_printed_with_exit_code_2(server: InProcessServer, files: Path) -> None:
    bad = ("--latency-ms", "nan", "--max-drop", -3, "--max-size", 0, "--seed=-1", "--target", "toaster")
    result = command(server, "search", files / "net.onnx", files / "data.npz", *bad)
    assert result.returncode == 2
    for field in ("budget.latency_ms", "budget.max_accuracy_drop_points", "budget.size_bytes", "effort.seed", "search.target"):
        assert field in result.stderr
    as_json = command(server, "search", files / "net.onnx", files / "data.npz", *bad, "--json")
    assert as_json.returncode == 2
    assert len(json.loads(as_json.stderr)["error"]["field_violations"]) == 5


def test_what_is_not_there_is_told_with_a_hint(server: InProcessServer, tmp_path: Path) -> None:
    result = command(server, "searches", "show", "nothing")
    assert result.returncode == 2
    assert "does not exist" in result.stderr
    assert "hint:" in result.stderr
    assert "is not a file" in command(server, "models", "upload", tmp_path / "missing.onnx").stderr


def test_the_growing_front_leaves_out_what_is_dominated() -> None:
    made = [candidate_to_proto("projects/p/searches/s", record(n, latency_ms=1.0 + n, drop=0.1 * (n % 2))) for n in range(4)]
    unknown = search_pb2.Candidate(name="projects/p/searches/s/candidates/c9")
    assert [c.trial_number for c in growing_front([*made, unknown])] == [0]
