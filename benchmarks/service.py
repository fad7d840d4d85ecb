"""Checks of the service: durable, secure, scheduled, fast under load. ``make bench-service``; every cell resumes.

Nothing else may run beside the load and the uploads. The cells of single lines: `service_kills`, `service_load`, `service_uploads`,
`service_fuzz`, `service_schedules`.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import service_fuzz, service_kills, service_load, service_schedules, service_uploads
from benchmarks.harness import Check, Results, Row, run_tests, test_check

NAME = "service"
DATABASES = ("sqlite", "postgresql")
KILLS = 25
"""On each of the two databases."""
LOAD_S = 600.0
FUZZED = 10_000
TESTS = {
    "service 4 in the tests": "tests/service/test_hostile.py",
    "service 6 every rpc": "tests/service/test_access.py",
    "service 6 tokens": "tests/service/test_access_tokens.py",
    "service 6 TLS": "tests/service/test_tls.py",
    "service 6 secrets": "tests/service/test_access_secrets.py",
    "service 7": "tests/service/test_store_machine.py",
}


def run(results: Results) -> None:
    """Measure what is missing; the timed cells first, while the machine is quiet."""
    results.cell("load", lambda: service_load.measure(LOAD_S))
    results.cell("uploads", service_uploads.measure)
    results.cell("fuzz", lambda: service_fuzz.measure(FUZZED))
    for database in DATABASES:
        results.cell(f"kills {database}", lambda database=database: service_kills.measure(database, KILLS))  # type: ignore[misc]
    results.cell("schedules", service_schedules.measure)
    for line, row in zip(TESTS, run_tests(TESTS.values()), strict=True):
        results.cell(f"test {line}", lambda row=row: row, again=True)  # type: ignore[misc]


def checks(rows: Sequence[Row]) -> list[Check]:
    """One check per figure of "Must show"."""
    cell = {row["cell"]: row for row in rows}

    def check(line: str, name: str, key: str, goal: str) -> Check:
        figure = cell.get(name, {}).get(key)
        return Check(f"service {line} {key}", len(figure) if isinstance(figure, list) else figure, goal)

    listed = [Check("service 1 kills", sum(cell.get(f"kills {d}", {}).get("kills", 0) for d in DATABASES), ">= 50")]
    nothing = ("not_ended", "lost_candidates", "repeated_trials", "duplicate_runs", "missing_runs", "violations")
    for database in DATABASES:
        listed += [check(f"1 {database}", f"kills {database}", key, "== 0") for key in nothing]
    listed += [
        check("2", "load", "streams", ">= 1000"),
        check("2", "load", "seconds", ">= 600"),
        check("2", "load", "call_ms_p99", "< 50"),
        check("2", "load", "calls_failed", "== 0"),
        check("2", "load", "events_lost", "== 0"),
        check("2", "load", "events_out_of_order", "== 0"),
        check("2", "load", "rss_mib_per_minute", "< 1"),
        check("3", "uploads", "size_bytes", ">= 1073741824"),
        check("3", "uploads", "rss_growth_mib", "< 64"),
        check("3", "uploads", "throughput_ratio", ">= 0.6"),
        check("3", "uploads", "digest_right", "== 1"),
        check("4", "fuzz", "files", ">= 10000"),
        check("4", "fuzz", "requests", ">= 10000"),
        *(check("4", "fuzz", f"files_{bad}", "== 0") for bad in ("crashes", "timeouts", "untyped", "strays")),
        *(check("4", "fuzz", f"requests_{bad}", "== 0") for bad in ("untyped", "strays")),
        check("4", "fuzz", "server_alive", "== 1"),
        check("5", "schedules", "schedules", "== 100"),
        check("5", "schedules", "searches", "== 100"),
        check("5", "schedules", "violations", "== 0"),
    ]
    return listed + [test_check(rows, line, node) for line, node in TESTS.items()]
