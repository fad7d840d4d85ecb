from __future__ import annotations

import json
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.access.audit import AuditEntry, AuditLog

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
DAY_S = 24 * 3600.0
ENTRY = AuditEntry(
    "token:x", "p", "/paretopress.v1.ModelService/DeleteModel", "projects/p/models/m", "OK", "", "r1", "ipv4:127.0.0.1:7"
)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]


def test_a_day_is_a_file_that_only_the_server_reads(tmp_path: Path) -> None:
    clock = Clock()
    log = AuditLog(tmp_path / "audit", 2.0, clock)
    for day in range(5):
        clock.now = NOON + day * DAY_S
        log.record(replace(ENTRY, request_id=f"r{day}"))
    log.close()
    names = sorted(path.name for path in (tmp_path / "audit").iterdir())
    assert names == ["audit-2026-11-27.jsonl", "audit-2026-11-28.jsonl", "audit-2026-11-29.jsonl"]
    assert [line["request_id"] for line in lines(tmp_path / "audit")] == ["r2", "r3", "r4"]
    assert lines(tmp_path / "audit")[0]["time"] == "2026-11-27T12:00:00.000+00:00"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "audit").iterdir()} == {0o600}


def test_two_servers_share_a_folder_and_a_restart_goes_on(tmp_path: Path) -> None:
    logs = [AuditLog(tmp_path, 0.0, Clock()) for _ in range(2)]
    for number in range(200):
        logs[number % 2].record(replace(ENTRY, request_id=f"r{number}"))
    logs[0].close()
    logs[0].record(ENTRY)
    assert [line["request_id"] for line in lines(tmp_path)] == [*(f"r{number}" for number in range(200)), "r1"]


def test_a_flood_of_refusals_is_counted_and_changes_are_all_there(tmp_path: Path) -> None:
    clock = Clock()
    log = AuditLog(tmp_path, 0.0, clock)
    for _ in range(1000):
        log.record_refusal(replace(ENTRY, outcome="UNAUTHENTICATED"))
    for _ in range(10):
        log.record(ENTRY)
    found = lines(tmp_path)
    assert [line["outcome"] for line in found] == ["UNAUTHENTICATED"] * 500 + ["OK"] * 10
    assert found[500]["refusals_left_out"] == 500
    assert "refusals_left_out" not in found[501]
    log.record_refusal(replace(ENTRY, principal="token:another"))
    clock.now += 1
    log.record_refusal(ENTRY)
    assert len(lines(tmp_path)) == 512


def test_a_line_stays_a_line(tmp_path: Path) -> None:
    AuditLog(tmp_path, 0.0, Clock()).record(replace(ENTRY, resource='projects/p/models/"\n{}', principal="jwt:ä\r\n"))
    assert [line["resource"] for line in lines(tmp_path)] == ['projects/p/models/"\n{}']


def test_a_log_that_cannot_be_written_is_said_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(tmp_path / "audit", 0.0, Clock())
    (tmp_path / "audit").rmdir()
    log.record(ENTRY)
    assert "cannot be written" in caplog.text
    assert "projects/p/models/m" in caplog.text
