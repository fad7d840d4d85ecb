from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from paretopress.cli import tables
from paretopress.cli.app import app
from paretopress.cli.budget import bytes_of
from paretopress.cli.choices import names
from paretopress.cli.context import UsageError
from paretopress.cli.live import growing_front
from paretopress.cli.tables import CandidateTable
from paretopress.v1 import measurement_pb2, search_pb2
from service.converters.candidates import candidate_to_proto
from service.testing import InProcessServer
from tests.service import fakes
from tests.service.fakes import PLACES, FakeImporter, FakeTools, finds_three, record

RUNNER = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessServer]:
    data_dir = tmp_path_factory.mktemp("cli")
    with InProcessServer(data_dir, FakeImporter(), FakeTools(finds_three)) as running:
        yield running


@pytest.fixture
def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


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


@pytest.mark.parametrize(
    ("note", "shown"),
    [("split chosen by the server: the model may have seen it", True), ("split chosen by the dataset", False)],
)
def test_a_split_that_the_server_chose_stands_beside_the_accuracies(
    note: str, shown: bool, server: InProcessServer, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {**fakes.dataset_facts(), "split_note": note}
    monkeypatch.setattr(fakes, "dataset_facts", lambda: facts)
    (files / "data.npz").write_bytes(note.encode())
    limits = ("--latency-ms", 1.5, "--max-drop", 1.0)
    result = invoke(server, "search", files / "net.onnx", files / "data.npz", *limits)
    assert (f"accuracies: {note}" in result.output) == shown
    assert "accuracy on the selection split" in result.output


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
    listed = invoke(server, "targets", "list").output
    lines = {line.split()[0]: line for line in listed.splitlines() if line.strip()}
    assert " measures " in lines["cpu-ort-1t"]
    assert " predicts " in lines["raspberry-pi-5"]


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
    assert "minutes, roughly: no search has run there yet" in result.output
    assert re.search(r"^sensitivity +\d+ s +what each single compression costs and saves", result.output, re.MULTILINE)
    assert "minutes of at most 30.0 minutes" in result.output
    assert "may hold no candidate" not in result.output
    tight = invoke(server, "search", files / "net.onnx", files / "data.npz", *limits, "--wall-time-s", 20).output
    assert re.search(r"warning: 20 s may hold no candidate; allow at least \d+ s", tight)
    phases = invoke_json(server, "search", files / "net.onnx", files / "data.npz", *limits)["plan"]["phases"]
    assert [phase["phase"] for phase in phases][-2:] == ["last rung", "finalists"]


def test_a_bound_that_breaks_a_limit_is_told_and_a_prediction_marked() -> None:
    """The table shows 0.0434 ms, the limit is 0.05: what breaks it is the upper bound."""
    latency = measurement_pb2.Measurement(value=0.0434, spread=0.0868, source=measurement_pb2.Measurement.PREDICTED)
    candidate = search_pb2.Candidate(name="c", measurements={"latency_ms": latency})
    broken = search_pb2.BrokenLimit(limit="latency_ms", excess=0.0802)
    assert tables.broken_words(broken, candidate) == "breaks latency_ms by 0.0802: its upper bound is 0.13"
    assert tables.broken_words(search_pb2.BrokenLimit(limit="macs", excess=5), candidate) == "breaks macs by 5"
    assert tables.legend([candidate]) == " (~ predicted)"
    latency.source = measurement_pb2.Measurement.MEASURED
    assert tables.legend([search_pb2.Candidate(measurements={"latency_ms": latency})]) == ""


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


def test_sizes_of_images_go_with_any_model_file(server: InProcessServer, files: Path) -> None:
    sizes = ("--channels", 1, "--height", 28, "--width", 28)
    limits = ("--latency-ms", 1.5, "--max-drop", 1.0)
    answer = invoke_json(server, "search", files / "net.onnx", files / "data.npz", *limits, *sizes)
    dataset = invoke_json(server, "datasets", "show", answer["search"]["dataset"])
    assert (dataset["preprocessing"]["height"], dataset["preprocessing"]["channels"]) == (28, 1)


@pytest.mark.parametrize(
    ("model", "dataset", "says"),
    [
        ("nets/missing.pt2", "data.npz", "there is no file nets/missing.pt2"),
        ("net.onnx", "missing.npz", "there is no file missing.npz"),
        ("net.onnx", ".", ". is a folder; pack it"),
        ("My Net", "data.npz", "'My Net' is no name of a model"),
    ],
)
def test_a_mistyped_path_is_no_name(
    model: str, dataset: str, says: str, server: InProcessServer, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    result = invoke(server, "search", model, dataset)
    assert isinstance(result.exception, UsageError)
    assert says in str(result.exception)


def test_options_that_would_do_nothing_are_refused(server: InProcessServer, files: Path) -> None:
    uploaded = run_search(server, files)["search"]
    result = invoke(server, "search", files / "net.onnx", uploaded["dataset"], "--mean", 0.5, "--resize-size", 40)
    assert "--mean, --resize-size only go with a dataset file" in str(result.exception)
    result = invoke(server, "search", uploaded["model"], files / "data.npz", "--num-classes", 3)
    assert "--num-classes only go with a model file" in str(result.exception)


def test_the_same_bytes_are_the_same_model_and_dataset(server: InProcessServer, files: Path) -> None:
    first, again = run_search(server, files)["search"], run_search(server, files)["search"]
    assert (first["model"], first["dataset"]) == (again["model"], again["dataset"])
    before = [invoke_json(server, noun, "list") for noun in ("models", "datasets")]
    refused = command(server, "search", files / "net.onnx", files / "data.npz", "--latency-ms", "nan")
    assert refused.returncode == 2
    assert [invoke_json(server, noun, "list") for noun in ("models", "datasets")] == before
    other = invoke_json(server, "datasets", "upload", files / "data.npz", "--height", 4, "--width", 4)
    assert other["name"] != first["dataset"]
    assert other["sha256"] == invoke_json(server, "datasets", "show", first["dataset"])["sha256"]


def piped(server: InProcessServer, *arguments: object, columns: int | None = None) -> str:
    """Standard output of the command in a pipe."""
    line = [sys.executable, "-c", "from paretopress.cli import main; main()", "--address", server.address, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"COLUMNS": str(columns)} if columns else {}
    return subprocess.run(line, capture_output=True, text=True, check=True, env=environment).stdout


@pytest.mark.parametrize("columns", [80, None], ids=["80 columns", "pipe"])
@pytest.mark.parametrize("noun", ["models", "datasets", "searches"])
def test_names_are_never_split(noun: str, columns: int | None, server: InProcessServer, files: Path) -> None:
    run_search(server, files)
    names = [one["name"].rpartition("/")[2] for one in invoke_json(server, noun, "list")]
    words = piped(server, noun, "list", columns=columns).split()
    assert set(names) <= set(words)


def test_json_may_stand_before_the_command(server: InProcessServer, files: Path) -> None:
    run_search(server, files)
    result = RUNNER.invoke(app, ["--json", "--address", server.address, "models", "list"])
    assert json.loads(result.stdout)[0]["name"].startswith("projects/default/models/")


def test_version_and_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RUNNER.invoke(app, ["--version"]).stdout.startswith("paretopress 0.")
    assert "--install-completion" in RUNNER.invoke(app, ["--help"]).output


@pytest.mark.parametrize(
    ("text", "count"),
    [("1234", 1234), ("500kB", 500_000), ("1MB", 1_000_000), ("1.5 mb", 1_500_000), ("1MiB", 1 << 20), ("2k", 2000)],
)
def test_sizes_for_people(text: str, count: int) -> None:
    assert bytes_of(text) == count


def test_what_is_no_size_is_refused(server: InProcessServer, files: Path) -> None:
    result = invoke(server, "search", files / "net.onnx", files / "data.npz", "--max-size", "small")
    assert result.exit_code == 2
    assert "500kB" in result.output


def test_a_searchs_own_files_are_downloaded(server: InProcessServer, files: Path) -> None:
    search = run_search(server, files)["search"]
    (artifact,) = (one["artifact"] for one in search["artifacts"])
    answer = invoke_json(server, "searches", "download", search["name"], "--out", files / "out")
    assert answer["files"] == [str(files / "out" / artifact)]
    assert Path(answer["files"][0]).stat().st_size > 0


def test_a_server_that_is_down_is_told_at_once(free_port: int) -> None:
    line = [
        sys.executable,
        "-c",
        "from paretopress.cli import main; main()",
        "--address",
        f"127.0.0.1:{free_port}",
        "models",
        "list",
    ]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.kill()
    assert f"127.0.0.1:{free_port} does not answer" in first


def test_problems_are_printed_once(server: InProcessServer, files: Path) -> None:
    result = command(server, "search", files / "net.onnx", files / "data.npz", *["--scope", "x" * 2000] * 3)
    assert result.stderr.count("must have at most") == 3


@pytest.mark.parametrize(("spread", "shown"), [(0.05, "2.00x"), (0.9, "unsettled")])
def test_no_speed_up_is_claimed_from_what_did_not_settle(spread: float, shown: str) -> None:
    names = "projects/p/searches/s"
    original, faster = (candidate_to_proto(names, record(n, latency_ms=2.0 / (n + 1), drop=0.1)) for n in range(2))
    for one in (original, faster):
        one.measurements["latency_ms"].source = one.measurements["latency_ms"].MEASURED
    original.measurements["latency_ms"].spread = spread
    with (console := Console(width=200, file=io.StringIO())).capture() as captured:
        console.print(CandidateTable("", [faster], original))
    assert shown in captured.get()


COMMANDS = ["", "search", "serve", *(f"{noun.name} {one.name or one.callback.__name__}" for noun in app.registered_groups
            for one in noun.typer_instance.registered_commands)]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_cuts_nothing_at_80_columns(command: str) -> None:
    result = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0, result.output
    assert "…" not in result.output


def test_the_growing_front_leaves_out_what_is_dominated() -> None:
    made = [candidate_to_proto("projects/p/searches/s", record(n, latency_ms=1.0 + n, drop=0.1 * (n % 2))) for n in range(4)]
    unknown = search_pb2.Candidate(name="projects/p/searches/s/candidates/c9")
    assert [c.trial_number for c in growing_front([*made, unknown])] == [0]
