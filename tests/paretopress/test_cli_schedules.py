from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from paretopress.cli.app import app
from paretopress.cli.context import UsageError
from paretopress.errors import RequestRefusedError
from service.testing import InProcessServer
from tests.service.conftest import upload_inputs
from tests.service.fakes import FakeImporter

World = tuple[InProcessServer, str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("schedules")
    with InProcessServer(folder / "data", FakeImporter()) as server, server.client() as client:
        search = upload_inputs(client, folder)
        yield server, search.model, search.dataset


def invoke(world: World, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["--address", world[0].address, "schedules", *arguments])


def create(world: World, *arguments: str, model: str = "") -> Result:
    budget = ("--latency-ms", "2", "--max-drop", "1")
    return invoke(world, "create", model or world[1], world[2], *budget, *arguments)


def test_a_schedule_from_its_making_to_its_end(world: World) -> None:
    made = create(world, "--cron", "30 2 * * MON", "--time-zone", "Europe/Berlin", "--id", "weekly", "--name", "every Monday")
    assert made.exit_code == 0, made.output
    assert "30 2 * * MON (Europe/Berlin), next run: " in made.stdout
    assert " 02:30\n" in made.stdout
    listed = invoke(world, "list").stdout
    assert max(map(len, listed.splitlines())) <= 80
    row = next(line for line in listed.splitlines() if line.startswith("weekly"))
    assert "30 2 * * MON" in row
    assert " 02:30" in row
    assert "never" in row
    assert "every Monday" in row
    assert "paused" in invoke(world, "pause", "weekly").stdout
    assert "paused" not in invoke(world, "resume", "weekly").stdout
    started = invoke(world, "run", "weekly")
    assert "search created" in started.stdout
    assert "paretopress searches watch projects/default/searches/weekly-" in started.stdout
    runs = invoke(world, "runs", "weekly").stdout
    assert "search created" in runs
    assert max(map(len, runs.splitlines())) <= 80
    assert json.loads(invoke(world, "runs", "weekly", "--json").stdout)[0]["manual"] is True
    changed = invoke(world, "update", "weekly", "--cron", "0 6 * * *", "--overlap", "queue", "--json")
    stored = json.loads(changed.stdout)
    assert (stored["cron"], stored["overlap_policy"], stored["time_zone"]) == ("0 6 * * *", "QUEUE", "Europe/Berlin")
    assert invoke(world, "delete", "weekly").exit_code == 0
    assert isinstance(invoke(world, "show", "weekly").exception, RequestRefusedError)


def test_only_checked(world: World) -> None:
    checked = create(world, "--cron", "0 0 29 2 *", "--validate-only")
    assert "valid" in checked.stdout
    assert "-02-29 00:00" in checked.stdout
    assert invoke(world, "list", "--json").stdout.strip() == "[]"


def test_a_model_of_the_registry(world: World) -> None:
    options = ("--cron", "0 * * * *", "--register-as", "models:/digits-small@edge", "--id", "champion")
    made = create(world, *options, model="models:/digits@champion")
    assert "models:/digits@champion on projects/default/datasets/" in made.stdout
    assert "registered as models:/digits-small@edge" in made.stdout
    assert "resolving" in invoke(world, "run", "champion").stdout
    invoke(world, "delete", "champion")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cron", "61 * * * *"), "schedule.cron"),
        (("--cron", "0 0 30 2 *"), "schedule.cron"),
        (("--cron", "0 0 * * *", "--time-zone", "Mars/Olympus"), "schedule.time_zone"),
        (("--cron", "0 0 * * *", "--end", "2001-01-01"), "schedule.end_time"),
        (("--cron", "0 0 * * *", "--register-as", "x@latest"), "schedule.register_as.alias"),
        (("--cron", "0 0 * * *", "--misfire-grace-s", "5"), "schedule.misfire_grace"),
    ],
)
def test_bad_options_are_named(world: World, options: tuple[str, ...], words: str) -> None:
    error = create(world, *options).exception
    assert isinstance(error, RequestRefusedError)
    assert [problem.field for problem in error.problems] == [words]


@pytest.mark.parametrize("options", [("--start", "tomorrow"), ("--register-as", "nobody"), ()])
def test_what_cannot_be_meant_is_not_sent(world: World, options: tuple[str, ...], tmp_path: Path) -> None:
    assert isinstance(invoke(world, "update", "x", *options).exception, UsageError)
