from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import torch

from examples.resnet import ResNet
from hw_models.catalogue import datasheet_targets
from hw_models.targets import builtin_targets
from paretopress.client import Client
from paretopress.errors import RequestRefusedError
from paretopress.v1 import search_pb2, target_pb2
from search.spec import Budget, SearchSpec
from service.store.database import Database
from service.store.search_catalogue import NewSearch, SearchCatalogue
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import calibrated_predictor
from tests.service.priced_model import GraphImporter, graph

TARGETS = "projects/default/targets"
Code = grpc.StatusCode


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InProcessServer]:
    with InProcessServer(tmp_path / "data", GraphImporter(tmp_path / "data")) as running:
        yield running


def board(**changes: object) -> target_pb2.Target:
    peaks = target_pb2.Peaks(fp32_gmacs=10, int8_gmacs=40, bandwidth_gb_s=5, per_kernel_us=2, sources=["a data sheet"])
    made = target_pb2.Target(device="cpu", runtime="onnxruntime", peaks=peaks)
    for field, value in changes.items():
        setattr(made, field, value)
    return made


def refused(error: pytest.ExceptionInfo[RequestRefusedError]) -> tuple[grpc.StatusCode, set[str]]:
    return error.value.code, {problem.field for problem in error.value.problems}


def place_predictor(server: InProcessServer, name: str) -> None:
    server.settings.targets_dir.mkdir(parents=True, exist_ok=True)
    target = next(t for t in builtin_targets() if t.name == name)
    (server.settings.targets_dir / f"{name}.json").write_text(calibrated_predictor(target).to_json())


def test_this_machine_and_the_catalogue_are_seen_by_every_project(server: InProcessServer) -> None:
    expected = sorted(target.name for target in (*builtin_targets(), *datasheet_targets()))
    for project in ("projects/default", "projects/other"):
        with server.client(project=project) as client:
            assert [t.name for t in client.list_targets(page_size=3)] == [f"{project}/targets/{name}" for name in expected]
    with server.client() as client:
        pi, here = client.get_target(f"{TARGETS}/raspberry-pi-5"), client.get_target(f"{TARGETS}/cpu-ort-1t")
    assert (pi.origin, pi.attached, pi.calibrated) == (target_pb2.Target.CATALOGUE, False, False)
    assert pi.peaks.fp32_gmacs == pytest.approx(76.8)
    assert any("http" in source for source in pi.peaks.sources)
    assert (here.origin, here.attached, here.HasField("peaks")) == (target_pb2.Target.BUILTIN, True, False)
    assert (list(here.integer_types), here.optimization) == (["uint8", "int8"], "all")


def test_a_calibrated_target_tells_how_it_was_calibrated(server: InProcessServer) -> None:
    with server.client() as client:
        assert not client.get_target(f"{TARGETS}/cpu-ort-1t").HasField("calibration")
        place_predictor(server, "cpu-ort-1t")
        target = client.get_target(f"{TARGETS}/cpu-ort-1t")
        assert target.calibrated
        assert (target.calibration.networks, target.calibration.mean_error_percent) == (100, 3.5)
        assert target.calibration.calibrate_time.seconds > 0


def test_a_predictor_of_an_older_version_counts_as_none(server: InProcessServer) -> None:
    place_predictor(server, "cpu-ort-1t")
    path = server.settings.targets_dir / "cpu-ort-1t.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 0}))
    with server.client() as client:
        assert not client.get_target(f"{TARGETS}/cpu-ort-1t").calibrated


def test_a_registered_target_has_defaults_and_belongs_to_its_project(server: InProcessServer) -> None:
    with server.client() as client, server.client(project="projects/other") as other:
        made = client.create_target(board(), "my-board", request_id="once")
        assert client.create_target(board(), "my-board", request_id="once") == made == client.get_target(made.name)
        assert (made.name, made.origin) == (f"{TARGETS}/my-board", target_pb2.Target.REGISTERED)
        assert (made.threads, made.channel_multiple, made.optimization) == (1, 8, "extended")
        assert (list(made.precisions), list(made.integer_types)) == (["fp32", "int8"], ["uint8", "int8"])
        assert list(made.peaks.sources) == ["a data sheet"]
        assert made.name in [t.name for t in client.list_targets()]
        with pytest.raises(RequestRefusedError) as error:
            other.get_target("projects/other/targets/my-board")
        assert error.value.code is Code.NOT_FOUND


def test_without_int8_units_there_is_no_int8(server: InProcessServer) -> None:
    peaks = target_pb2.Peaks(fp32_gmacs=10, bandwidth_gb_s=5)
    with server.client() as client:
        made = client.validate_target(target_pb2.Target(device="cpu", runtime="x", peaks=peaks), "plain")
    assert (list(made.precisions), list(made.integer_types)) == (["fp32"], [])


def test_every_bad_field_of_a_registration_is_told_at_once(server: InProcessServer) -> None:
    peaks = target_pb2.Peaks(
        fp32_gmacs=-1, int8_gmacs=float("nan"), bandwidth_gb_s=float("inf"), per_kernel_us=-2, sources=["x" * 501]
    )
    bad = target_pb2.Target(
        display_name="x" * 501,
        runtime=" ",
        threads=-1,
        precisions=["fp8"],
        channel_multiple=5000,
        integer_types=["int4"],
        optimization="most",
        peaks=peaks,
    )
    with server.client() as client, pytest.raises(RequestRefusedError) as error:
        client.create_target(bad, "No!")
    fields = ("display_name", "device", "runtime", "threads", "precisions", "channel_multiple", "integer_types", "optimization")
    rates = ("fp32_gmacs", "int8_gmacs", "bandwidth_gb_s", "per_kernel_us", "sources")
    expected = {"target_id", *(f"target.{f}" for f in fields), *(f"target.peaks.{f}" for f in rates)}
    assert refused(error) == (Code.INVALID_ARGUMENT, expected)
    with server.client() as client, pytest.raises(RequestRefusedError) as error:
        client.create_target(target_pb2.Target(device="cpu", runtime="x"), "fine")
    assert refused(error) == (Code.INVALID_ARGUMENT, {"target.peaks"})


@pytest.mark.parametrize("name", ["cpu-ort-1t", "raspberry-pi-5", "mine"])
def test_a_name_that_is_taken_is_refused(server: InProcessServer, name: str) -> None:
    with server.client() as client:
        client.create_target(board(), "mine")
        for attempt in (client.create_target, client.validate_target):
            with pytest.raises(RequestRefusedError) as error:
                attempt(board(threads=2), name)
            assert error.value.code is Code.ALREADY_EXISTS


def test_validate_only_registers_nothing(server: InProcessServer) -> None:
    with server.client() as client:
        assert client.validate_target(board(), "later").name == f"{TARGETS}/later"
        with pytest.raises(RequestRefusedError):
            client.get_target(f"{TARGETS}/later")


def test_only_registered_targets_that_no_search_uses_can_be_deleted(server: InProcessServer) -> None:
    database = Database(server.settings.resolved_database_url)
    with server.client() as client:
        made = client.create_target(board(), "mine")
        spec = SearchSpec("a" * 64, "b" * 64, "mine", Budget(latency_ms=1.0, max_accuracy_drop_points=1.0))
        searches = SearchCatalogue(database)
        searches.create(NewSearch("projects/default/searches/s", "default", "", "m", "d", spec, 60.0), "", "")
        with pytest.raises(RequestRefusedError, match="searches/s") as error:
            client.delete_target(made.name)
        assert error.value.code is Code.FAILED_PRECONDITION
        searches.cancel("projects/default/searches/s")
        with pytest.raises(RequestRefusedError) as error:
            client.delete_target(made.name, etag="another")
        assert error.value.code is Code.ABORTED
        client.delete_target(made.name, etag=made.etag)
        codes = {"mine": Code.NOT_FOUND, "cpu-ort-1t": Code.FAILED_PRECONDITION, "nvidia-t4": Code.FAILED_PRECONDITION}
        for name, code in codes.items():
            with pytest.raises(RequestRefusedError) as error:
                client.delete_target(f"{TARGETS}/{name}")
            assert error.value.code is code
    database.close()


def test_a_prediction_needs_a_calibration_where_the_target_is_attached(server: InProcessServer, tmp_path: Path) -> None:
    with server.client() as client:
        model = upload_inputs(client, tmp_path).model
        with pytest.raises(RequestRefusedError, match="calibrate") as error:
            client.predict_latency(f"{TARGETS}/cpu-ort-1t", model)
        assert error.value.code is Code.FAILED_PRECONDITION
        place_predictor(server, "cpu-ort-1t")
        answer = client.predict_latency(f"{TARGETS}/cpu-ort-1t", model)
        assert answer.calibrated
        assert 0 < answer.low_ms <= answer.latency_ms <= answer.high_ms
        assert answer.macs == graph().macs()
        with pytest.raises(RequestRefusedError) as error:
            client.predict_latency(f"{TARGETS}/cpu-ort-1t", "nothing", batch_size=-1)
        assert refused(error) == (Code.INVALID_ARGUMENT, {"batch_size", "model"})


@pytest.mark.parametrize("name", ["raspberry-pi-5", "mine"])
def test_a_data_sheet_predicts_and_says_uncalibrated(server: InProcessServer, tmp_path: Path, name: str) -> None:
    with server.client() as client:
        client.create_target(board(), "mine")
        answer = client.predict_latency(f"{TARGETS}/{name}", upload_inputs(client, tmp_path).model)
    assert not answer.calibrated
    assert 0 < answer.low_ms < answer.latency_ms < answer.high_ms
    assert sum(kernel.share for kernel in answer.kernels) == pytest.approx(1)
    assert [k.latency_ms / answer.kernels[0].latency_ms for k in answer.kernels] == pytest.approx(
        [k.share / answer.kernels[0].share for k in answer.kernels]
    )
    assert any("not a multiple of 8" in reason for kernel in answer.kernels for reason in kernel.reasons)


def test_a_comparison_gives_what_each_prediction_gives(server: InProcessServer, tmp_path: Path) -> None:
    place_predictor(server, "cpu-ort-1t")
    names = [f"{TARGETS}/{name}" for name in ("raspberry-pi-4", "cpu-ort-1t", "nvidia-t4")]
    with server.client() as client:
        model = upload_inputs(client, tmp_path).model
        compared = client.compare_targets(model, names).predictions
        alone = [client.predict_latency(name, model) for name in names]
    assert [p.target for p in compared] == names
    assert [p.calibrated for p in compared] == [False, True, False]
    for one, other in zip(compared, alone, strict=True):
        assert (one.latency_ms, one.low_ms, one.high_ms, one.macs) == (other.latency_ms, other.low_ms, other.high_ms, other.macs)
        assert one.unknown_kernels == other.unknown_kernels


def test_a_comparison_of_nothing_too_many_or_the_same_is_refused(server: InProcessServer) -> None:
    two = [f"{TARGETS}/nvidia-t4"] * 2
    cases = {"targets": [], "targets[1]": two, "targets[0]": ["toaster"]}
    with server.client() as client:
        for field, names in cases.items():
            with pytest.raises(RequestRefusedError) as error:
                client.compare_targets("projects/default/models/m", names)
            assert refused(error) == (Code.INVALID_ARGUMENT, {field})
        with pytest.raises(RequestRefusedError) as error:
            client.compare_targets("projects/default/models/m", [f"{TARGETS}/t{n}" for n in range(21)])
        assert refused(error) == (Code.INVALID_ARGUMENT, {"targets"})
        with pytest.raises(RequestRefusedError) as error:
            client.compare_targets("projects/default/models/m", [f"{TARGETS}/toaster"])
        assert error.value.code is Code.NOT_FOUND


def export_network(path: Path) -> Path:
    network = ResNet(depth=8, widths=(16, 16, 32)).eval()
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=dynamic, strict=False), path)
    return path


def pruned(ratio: float) -> str:
    step = {"technique": "structured_pruning", "version": 1, "config": {"ratios": {"blocks.2.conv1": ratio}}}
    return json.dumps({"type": "recipe", "version": 1, "steps": [step]})


def test_recipes_follow_what_each_target_prefers(tmp_path: Path) -> None:
    importer = GraphImporter(tmp_path / "data", export_network(tmp_path / "net.pt2"))
    names = [f"{TARGETS}/{name}" for name in ("raspberry-pi-5", "raspberry-pi-4", "stm32h743")]
    with InProcessServer(tmp_path / "data", importer) as server, server.client() as client:
        model = upload_inputs(client, tmp_path).model
        whole = client.compare_targets(model, names, batch_size=2).predictions
        assert len({p.macs for p in whole}) == 1
        assert whole[0].macs == 2 * client.compare_targets(model, names, recipe_json=pruned(0.0)).predictions[0].macs
        parts = client.compare_targets(model, names, batch_size=2, recipe_json=pruned(0.4)).predictions
        assert parts[0].macs == parts[1].macs < whole[0].macs
        assert parts[2].macs > parts[0].macs, "of 32 channels 20 are kept at multiples of 4, 16 at multiples of 8"
        assert parts[2].latency_ms == client.predict_latency(names[2], model, 2, pruned(0.4)).latency_ms
        with pytest.raises(RequestRefusedError) as error:
            client.compare_targets(model, names, recipe_json="{}")
        assert refused(error) == (Code.INVALID_ARGUMENT, {"recipe_json"})


def test_a_search_goes_with_any_target_that_there_is(server: InProcessServer, tmp_path: Path) -> None:
    def search(client: Client, target: str) -> search_pb2.Search:
        request = upload_inputs(client, tmp_path)
        request.target = f"{TARGETS}/{target}"
        return request

    with server.client() as client:
        client.create_target(board(), "mine")
        with pytest.raises(RequestRefusedError, match="raspberry-pi-5") as error:
            client.validate_search(search(client, "toaster"))
        assert refused(error) == (Code.INVALID_ARGUMENT, {"search.target"})
        minutes = {}
        for name in ("raspberry-pi-5", "mine", "cpu-ort-all"):
            valid = client.validate_search(search(client, name))
            assert valid.target.endswith(name)
            minutes[name] = valid.estimated_duration.seconds
        assert minutes["mine"] == minutes["raspberry-pi-5"] < minutes["cpu-ort-all"], "nothing is calibrated that is not here"
