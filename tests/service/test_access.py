"""Another project's token sees nothing: every rpc is tried over a real server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy
from google.protobuf.message import Message
from hypothesis import given, settings, strategies

from paretopress.client import Client
from paretopress.v1 import access_pb2, model_pb2, schedule_pb2, search_pb2, target_pb2
from service.access.principal import Scope
from service.access.rules import RULES, rule_of
from service.resources import (
    CalibrationName,
    CandidateName,
    DatasetName,
    ModelName,
    ProjectName,
    ScheduleName,
    SearchName,
    TargetName,
    TokenName,
    project_of,
)
from service.testing import InProcessServer
from tests.service.callers import call, channel_of, methods, outcome, refusal, request_about, secret
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter, FakeTools, finds_three

NAMES = (ProjectName, ModelName, DatasetName, TargetName, CalibrationName, SearchName, CandidateName, ScheduleName, TokenName)
OPEN = [method for method in methods() if rule_of(method).is_open]
GUARDED = [method for method in methods() if not rule_of(method).is_open]
REFUSED = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
WITH_PROJECT = [method for method in GUARDED if rule_of(method).resource]


@dataclass(frozen=True)
class World:
    """A server with a project ``theirs`` in which there is one of everything, and tokens."""

    server: InProcessServer
    channel: grpc.Channel
    names: dict[str, str]
    owner: str
    stranger: str
    reader: str
    everywhere: str
    expired: str
    revoked: str

    def existing(self, method: str) -> str:
        """A resource of theirs that the rpc can be about."""
        noun = {
            "PickBest": "Search",
            "ExtendSearch": "Search",
            "WatchSearch": "Search",
            "ListCandidates": "Search",
            "DownloadArtifact": "Candidate",
            "PredictLatency": "Model",
            "CompareTargets": "Model",
            "CalibrateTarget": "Target",
            "ListCalibrations": "Target",
            "UpdateSchedule": "Schedule",
            "PauseSchedule": "Schedule",
            "ResumeSchedule": "Schedule",
            "RunSchedule": "Schedule",
            "ListScheduleRuns": "Schedule",
        }
        name = method.rpartition("/")[2]
        verbless = name.removeprefix("Get").removeprefix("Delete").removeprefix("Cancel").removeprefix("Revoke")
        if rule_of(method).resource.endswith("parent") and name not in noun:
            return "projects/theirs"
        return self.names.get(noun.get(name, verbless), f"projects/theirs/things/{name.lower()}")

    def about(self, method: str, resource: str) -> Message:
        fields = {"model": "Model", "dataset": "Dataset", "target": "Target", "targets": "Target"}
        return request_about(method, resource, lambda field: self.names.get(fields.get(field, ""), ""))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("access")
    options = {"auth": "tokens", "lease_s": 5.0, "run_schedules": False}
    with (
        InProcessServer(folder / "data", FakeImporter(), FakeTools(finds_three), **options) as server,
        channel_of(server) as channel,
    ):
        owner = secret(server, "theirs")
        with server.client(project="projects/theirs", token=owner) as client:
            names = one_of_everything(client, folder)
            revoked = client.create_token(access_pb2.Token.ADMIN)
            client.revoke_token(revoked.token.name)
        expired = secret(server, "theirs", expire_time=time.time() - 1)
        everywhere = secret(server, "mine", all_projects=True)
        tokens = (secret(server, "mine"), secret(server, "theirs", Scope.READ), everywhere)
        yield World(server, channel, names, owner, *tokens, expired, revoked.secret)


def one_of_everything(client: Client, folder: Path) -> dict[str, str]:
    search = upload_inputs(client, folder)
    search.target = "projects/theirs/targets/cpu-ort-1t"
    made = client.wait(client.create_search(search).name)
    assert made.state == search_pb2.Search.SUCCEEDED
    target = target_pb2.Target(display_name="board", device="board", runtime="onnxruntime")
    target.peaks.CopyFrom(client.get_target("projects/theirs/targets/raspberry-pi-4").peaks)
    calibration = client.calibrate_target(search.target, 10)
    schedule = schedule_pb2.Schedule(cron="0 0 * * *", template=search)
    return {
        "Model": search.model,
        "Dataset": search.dataset,
        "Target": search.target,
        "Search": made.name,
        "Candidate": made.best,
        "Calibration": calibration.name,
        "Schedule": client.create_schedule(schedule).name,
        "Token": client.create_token(access_pb2.Token.READ).token.name,
    }


@pytest.mark.parametrize("method", methods())
def test_every_rpc_has_a_rule(method: str) -> None:
    assert method in RULES, f"say in service/access/rules.py who may call {method}"


@pytest.mark.parametrize("method", methods())
def test_a_rule_names_fields_that_exist(method: str) -> None:
    request_about(method, "projects/p", lambda field: "projects/p")


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.__name__)
@given(data=strategies.data())
@settings(max_examples=30, deadline=None)
def test_the_gate_and_the_servicers_see_the_same_project(kind: type[ProjectName], data: strategies.DataObject) -> None:
    name = data.draw(strategies.from_regex(kind.pattern, fullmatch=True))
    assert project_of(name) == kind.from_name(name).project


@pytest.mark.parametrize(
    "name", ["", "projects/", "projects/A", "projects/p\n", " projects/p", "projects//p", "projects/p%2f", "models:/m@x"]
)
def test_what_begins_with_no_project_has_none(name: str) -> None:
    assert project_of(name) is None


def test_only_health_is_open() -> None:
    assert {method.split("/")[1] for method in OPEN} == {"grpc.health.v1.Health"}


@pytest.mark.parametrize("method", GUARDED)
def test_nobody_is_let_in_without_a_good_token(world: World, method: str) -> None:
    cases = {
        "": "carries no token",
        "pp_000000000000_" + "A" * 43: "no such API token",
        world.owner[:-4] + "AAAA": "no such API token",
        "nonsense": "API tokens .pp_....* only",
        world.expired: "has expired",
        world.revoked: "was revoked",
    }
    for token, words in cases.items():
        error = refusal(world.channel, method, world.about(method, world.existing(method)), token)
        assert error.code is grpc.StatusCode.UNAUTHENTICATED
        assert re.match(f"Bearer .*{words}", str(error))


@pytest.mark.parametrize("method", WITH_PROJECT)
def test_another_projects_token_sees_nothing(world: World, method: str) -> None:
    name = world.existing(method)
    made_up = name.replace("theirs", "nobodys")
    there = refusal(world.channel, method, world.about(method, name), world.stranger)
    absent = refusal(world.channel, method, world.about(method, made_up), world.stranger)
    assert (there.code, there.reason) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    assert there.message == f"{name} does not exist"
    assert (absent.code, absent.reason, absent.message.replace(made_up, name)) == (there.code, there.reason, there.message)
    assert there.metadata == absent.metadata
    assert there.problems == absent.problems


@pytest.mark.parametrize("method", [m for m in WITH_PROJECT if rule_of(m).scope is Scope.READ and "Query" not in m])
def test_what_the_stranger_does_not_see_is_there(world: World, method: str) -> None:
    """Otherwise the test before would show nothing."""
    request = world.about(method, world.existing(method))
    if method.endswith("DownloadArtifact"):
        request.artifact = "model.onnx"  # type: ignore[attr-defined]
    for token in (world.owner, world.reader, world.everywhere):
        assert outcome(world.channel, method, request, token) not in REFUSED


@pytest.mark.parametrize("method", [m for m in GUARDED if rule_of(m).changes])
def test_a_scope_that_is_too_narrow_is_refused(world: World, method: str) -> None:
    error = refusal(world.channel, method, world.about(method, world.existing(method)), world.reader)
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_TOO_NARROW")
    assert str(rule_of(method).scope.name) in str(error)  # type: ignore[union-attr]


def test_the_store_is_not_even_asked(world: World) -> None:
    """So that neither words nor time tell whether something exists."""
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        # What the server asks on its own meanwhile (its health, say) is about nobody's things.
        if "api_tokens" not in statement and "theirs" in str(parameters):
            asked.append(statement)

    get_model = "/paretopress.v1.ModelService/GetModel"
    assert world.server._running is not None
    engine = world.server._running.database.engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", note)
    try:
        for method in WITH_PROJECT:
            refusal(world.channel, method, world.about(method, world.existing(method)), world.stranger)
        assert [text for text in asked if text.startswith("SELECT")] == []
        call(world.channel, get_model, world.about(get_model, world.existing(get_model)), world.everywhere)
        assert asked, "the listener hears what is asked"
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("field", ["model", "dataset", "target"])
def test_a_search_cannot_name_what_is_another_projects(world: World, field: str) -> None:
    search = search_pb2.Search()
    setattr(search, field, world.names[field.capitalize()])
    request = search_pb2.CreateSearchRequest(parent="projects/mine", search=search)
    error = refusal(world.channel, "/paretopress.v1.SearchService/CreateSearch", request, world.stranger)
    assert (error.code, error.message) == (grpc.StatusCode.NOT_FOUND, f"{world.names[field.capitalize()]} does not exist")


@pytest.mark.parametrize("field", ["model", "dataset", "target"])
def test_a_schedule_cannot_name_what_is_another_projects(world: World, field: str) -> None:
    request = schedule_pb2.CreateScheduleRequest(parent="projects/mine")
    setattr(request.schedule.template, field, world.names[field.capitalize()])
    error = refusal(world.channel, "/paretopress.v1.ScheduleService/CreateSchedule", request, world.stranger)
    assert (error.code, error.message) == (grpc.StatusCode.NOT_FOUND, f"{world.names[field.capitalize()]} does not exist")


def test_names_of_another_project_are_free_in_ones_own(world: World, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"network")
    with world.server.client(project="projects/mine", token=world.stranger) as client:
        taken = world.names["Model"].rpartition("/")[2]
        mine = client.upload_model(tmp_path / "net.onnx", model_pb2.Model.ONNX, model_id=taken)
        assert mine.name == f"projects/mine/models/{taken}"
        assert [model.name for model in client.list_models()] == [mine.name]
        assert not list(client.list_searches())
        assert not list(client.list_datasets())
        assert "cpu-ort-1t" in {target.name.rpartition("/")[2] for target in client.list_targets()}
        client.delete_model(mine.name)
    with world.server.client(project="projects/theirs", token=world.owner) as client:
        assert client.get_model(world.names["Model"]).name == world.names["Model"]


def test_a_resource_without_a_project_is_refused_to_whoever_has_only_one(world: World) -> None:
    request = model_pb2.GetModelRequest(name="models/x")
    error = refusal(world.channel, "/paretopress.v1.ModelService/GetModel", request, world.stranger)
    assert (error.code, error.problems[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, "name")


def test_health_is_open_and_reflection_is_not(world: World) -> None:
    health, reflection = "/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    assert call(world.channel, health, request_about(health, "", str))
    assert refusal(world.channel, reflection, request_about(reflection, "", str)).code is grpc.StatusCode.UNAUTHENTICATED
    assert call(world.channel, reflection, request_about(reflection, "", str), world.reader)


def test_changes_and_refusals_are_in_the_audit_log_and_secrets_are_not(world: World) -> None:
    request = model_pb2.DeleteModelRequest(name="projects/theirs/models/none")
    method = "/paretopress.v1.ModelService/DeleteModel"
    codes = {
        token: refusal(world.channel, method, request, token).request_id
        for token in (world.owner, world.stranger, world.reader, "pp_000000000000_" + "A" * 43)
    }
    text = "".join(path.read_text() for path in world.server.settings.audit_dir.iterdir())
    entries = {entry["request_id"]: entry for entry in map(json.loads, text.splitlines())}
    found = [(entries[codes[token]]["outcome"], entries[codes[token]]["reason"]) for token in codes]
    assert found == [
        ("NOT_FOUND", "RESOURCE_NOT_FOUND"),
        ("NOT_FOUND", "FOREIGN_PROJECT"),
        ("PERMISSION_DENIED", "SCOPE_TOO_NARROW"),
        ("UNAUTHENTICATED", "UNAUTHENTICATED"),
    ]
    known = entries[codes[world.stranger]]
    assert (known["principal"], known["resource"]) == (f"token:{world.stranger.split('_')[1]}", request.name)
    assert known["peer"].startswith("ipv4:127.0.0.1:")
    creations = [e for e in entries.values() if e["method"].endswith("/CreateSearch") and e["outcome"] == "OK"]
    assert world.names["Search"] in {entry["resource"] for entry in creations}
    for token in (world.owner, world.stranger, world.reader, world.everywhere):
        assert token.split("_", 2)[2] not in text
