from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from hw_models.targets import get_target
from paretopress.cli.app import app
from paretopress.cli.budget import make_budget
from paretopress.cli.choices import SizeKind
from paretopress.errors import RequestRefusedError
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeTools, calibrated_predictor, finds_three
from tests.service.priced_model import GraphImporter

RUNNER = CliRunner(env={"COLUMNS": "80", "TERM": "dumb"})
BOARD = ("--device", "cpu", "--runtime", "onnxruntime", "--fp32-gmacs", 10, "--int8-gmacs", 40, "--bandwidth-gb-s", 5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessServer]:
    data_dir = tmp_path_factory.mktemp("cli")
    with InProcessServer(data_dir, GraphImporter(data_dir), FakeTools(finds_three)) as running:
        running.settings.targets_dir.mkdir(parents=True)
        predictor = calibrated_predictor(get_target("cpu-ort-1t")).to_json()
        (running.settings.targets_dir / "cpu-ort-1t.json").write_text(predictor)
        yield running


@pytest.fixture(scope="module")
def model(server: InProcessServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    with server.client() as client:
        return upload_inputs(client, tmp_path_factory.mktemp("files")).model


def invoke(server: InProcessServer, *arguments: object) -> Result:
    return RUNNER.invoke(app, ["--address", server.address, "targets", *map(str, arguments)])


def invoke_json(server: InProcessServer, *arguments: object) -> Any:
    result = invoke(server, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def lines(result: Result) -> list[str]:
    """Of a table that is whole: nothing is wider than the console."""
    assert result.exit_code == 0, result.output
    found = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, found)) <= 80, result.stdout
    return found


def row(found: list[str], name: str) -> list[str]:
    return next(line.split() for line in found if line.startswith(name + " "))


def test_the_list_is_whole_at_80_columns(server: InProcessServer) -> None:
    found = lines(invoke(server, "list"))
    assert row(found, "cpu-ort-1t") == ["cpu-ort-1t", "builtin", "1", "fp32,", "int8", "error", "3.5%", "measures"]
    assert row(found, "nvidia-t4")[-3:] == ["data", "sheet", "predicts"]
    assert {t["name"].rpartition("/")[2] for t in invoke_json(server, "list")} <= {line.split()[0] for line in found if line}


def test_the_longest_kernels_come_first_with_their_reasons_below(server: InProcessServer, model: str) -> None:
    found = lines(invoke(server, "predict", "cpu-ort-1t", model))
    assert found[0].startswith("predicted ")
    assert not any(line.startswith("uncalibrated") for line in found)
    header = next(i for i, line in enumerate(found) if line.startswith("layer "))
    assert found[header].split() == ["layer", "kind", "ms", "share"]
    assert "pointwise.convolution" in found[header + 1]
    assert found[header + 1].endswith("%")
    assert found[header + 2].startswith("  channels not a multiple of 8")


def test_all_kernels_come_in_execution_order(server: InProcessServer, model: str) -> None:
    expected = [k["name"][-10:] for k in invoke_json(server, "predict", "raspberry-pi-5", model)["kernels"]]
    found = lines(invoke(server, "predict", "raspberry-pi-5", model, "--kernels", "all"))
    shown = [line.split()[0][-10:] for line in found if line.endswith("%") and "kernels" not in line]
    assert shown == expected
    assert len(lines(invoke(server, "predict", "raspberry-pi-5", model, "--kernels", "none"))) == 2


def test_a_data_sheet_prediction_says_uncalibrated(server: InProcessServer, model: str) -> None:
    found = lines(invoke(server, "predict", "raspberry-pi-5", model))
    assert found[1].startswith("uncalibrated: ")
    assert invoke_json(server, "predict", "raspberry-pi-5", model)["calibrated"] is False


def test_a_comparison_puts_the_fastest_first(server: InProcessServer, model: str) -> None:
    names = ("stm32h743", "cpu-ort-1t", "nvidia-h100")
    found = lines(invoke(server, "compare", model, *names))
    assert row(found, "stm32h743")[-1] == row(found, "nvidia-h100")[-1] == "uncalibrated"
    assert row(found, "cpu-ort-1t")[-1] == "calibrated"
    order = [line.split()[0] for line in found if line.split()[:1] and line.split()[0] in names]
    assert order[-1] == "stm32h743"
    assert "1.00x" in row(found, order[0])
    assert any(line.startswith("uncalibrated: ") for line in found)
    answer = invoke_json(server, "compare", model, *names)["predictions"]
    assert [p["target"].rpartition("/")[2] for p in answer] == list(names)


def test_register_show_delete(server: InProcessServer) -> None:
    made = invoke_json(server, "register", "mine", *BOARD, "--source", "a data sheet", "--threads", 4)
    assert (made["name"], made["origin"], made["threads"]) == ("projects/default/targets/mine", "REGISTERED", 4)
    shown = invoke(server, "show", "mine").output
    for words in ("registered", "uncalibrated: ", "fp32 10 GMAC/s", "source: a data sheet"):
        assert words in shown
    assert row(lines(invoke(server, "list")), "mine")[1] == "registered"
    assert invoke_json(server, "delete", "mine")["deleted"].endswith("/mine")
    result = invoke(server, "show", "mine")
    assert isinstance(result.exception, RequestRefusedError)


def test_validate_only_registers_nothing(server: InProcessServer) -> None:
    assert invoke_json(server, "register", "later", *BOARD, "--validate-only")["origin"] == "REGISTERED"
    assert isinstance(invoke(server, "show", "later").exception, RequestRefusedError)


def test_calibrate_follows_and_ends_with_the_summary(server: InProcessServer) -> None:
    result = invoke(server, "calibrate", "cpu-ort-1t-extended", "--seconds", 20)
    assert result.exit_code == 0, result.output
    assert "calibrated cpu-ort-1t-extended: 100 networks in 40 s on onnxruntime 1.0, mean error 3.5%" in result.output
    answer = invoke_json(server, "calibrate", "cpu-ort-1t-extended")
    assert (answer["state"], answer["budget_duration"]) == ("SUCCEEDED", "300s")
    assert len(invoke_json(server, "calibrations", "cpu-ort-1t-extended")) == 2
    assert "SUCCEEDED" in "\n".join(lines(invoke(server, "calibrations", "cpu-ort-1t-extended")))
    assert "short kit" in invoke(server, "show", "cpu-ort-1t-extended").output


def test_calibrate_can_leave_it_to_the_worker_and_be_cancelled(tmp_path: Path) -> None:
    with InProcessServer(tmp_path, GraphImporter(tmp_path)) as idle:
        queued = invoke_json(idle, "calibrate", "cpu-ort-1t", "--no-wait")
        assert queued["state"] == "QUEUED"
        short = queued["name"].rpartition("/")[2]
        assert invoke_json(idle, "cancel", f"cpu-ort-1t/{short}")["state"] == "CANCELLED"


def test_techniques_are_told_with_what_they_save_on_and_their_papers(server: InProcessServer) -> None:
    result = RUNNER.invoke(app, ["--address", server.address, "techniques"])
    found = lines(result)
    assert row(found, "structured_pruning")[1] == "width"
    assert row(found, "distillation")[1:3] == ["(training)", "-"]
    assert any(line == "input_resolution is not supported on networks whose input size is fixed" for line in found)
    listed = json.loads(RUNNER.invoke(app, ["--address", server.address, "--json", "techniques"]).stdout)
    assert {one["name"] for one in listed} >= {"low_rank", "int8_quantization"}


def test_any_measurement_can_be_limited() -> None:
    limits = make_budget(
        None, 1, None, SizeKind.ONNX_SIZE, None, None, 0.0, ["download_size_bytes=50kB", "parameters = 1000"]
    ).limits
    assert dict(limits) == {"download_size_bytes": 50_000.0, "parameters": 1000.0}
    for wrong in ("macs", "macs=many", "download_size_bytes=big"):
        with pytest.raises(typer.BadParameter, match="give"):
            make_budget(None, 1, None, SizeKind.ONNX_SIZE, None, None, 0.0, [wrong])
