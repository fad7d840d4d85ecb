from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.schedules.cron import CronLine
from service.schedules.due import MOST_RUNS, plan_due
from service.schedules.spec import RegistryEntry, RegistryReference, Timing

ZONES = ["Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Asia/Beirut", "UTC", "America/New_York", "Africa/Casablanca"]
LINES = [
    "* * * * *",
    "*/7 * * * *",
    "30 2 * * *",
    "*/30 2 * * *",
    "0 0 * * *",
    "15 */3 * * *",
    "0 2-3 * * *",
    "30 0 * * SUN",
    "0 1 L * *",
    "1,31 1,2,3 * * *",
]
CLOCKS_CHANGE = [1774746000, 1792976400, 1793239200, 1775066400, 1774994400, 1793509200, 1772953200]
HOUR_S, DAY_S = 3600.0, 24 * 3600.0


def berlin(*parts: int, fold: int = 0) -> float:
    return datetime(*parts, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold).timestamp()  # type: ignore[arg-type,misc]


def within(line: str, zone: str, begin: float, end: float) -> list[float]:
    return list(itertools.takewhile(lambda due: due < end, CronLine(line, zone).all_after(begin)))


def test_what_the_clock_skips_is_due_once() -> None:
    """At 2:00 on 29 March 2026 it becomes 3:00."""
    day = within("30 2 * * *", "Europe/Berlin", berlin(2026, 3, 29), berlin(2026, 3, 30))
    assert day == [berlin(2026, 3, 29, 3, 0)]


def test_what_the_clock_strikes_twice_is_due_once() -> None:
    """At 3:00 on 25 October 2026 it becomes 2:00."""
    day = within("30 2 * * *", "Europe/Berlin", berlin(2026, 10, 25), berlin(2026, 10, 26))
    assert day == [berlin(2026, 10, 25, 2, 30)]
    hourly = within("0 * * * *", "Europe/Berlin", berlin(2026, 10, 25) - 1, berlin(2026, 10, 26))
    assert len(hourly) == 25


@given(
    st.sampled_from(LINES), st.sampled_from(ZONES), st.sampled_from(CLOCKS_CHANGE), st.floats(-DAY_S, DAY_S), st.floats(0, 40_000)
)
def test_due_times_increase_and_do_not_depend_on_when_they_are_asked_for(
    line: str, zone: str, center: float, offset: float, later: float
) -> None:
    begin = center + offset
    seen = list(itertools.takewhile(lambda due: due < begin + later + 30 * HOUR_S, CronLine(line, zone).all_after(begin)))
    assert all(a < b for a, b in itertools.pairwise(seen))
    asked_later = itertools.takewhile(lambda due: due < begin + later + 30 * HOUR_S, CronLine(line, zone).all_after(begin + later))
    assert list(asked_later) == [due for due in seen if due > begin + later]


FIELD = st.one_of(st.just("*"), st.integers(0, 23).map(str), st.integers(2, 12).map(lambda step: f"*/{step}"))


@given(FIELD, FIELD, st.sampled_from(["*", "MON", "1-5", "0"]), st.integers(1_700_000_000, 1_900_000_000))
def test_due_times_are_those_of_a_scan_of_all_minutes(minute: str, hour: str, weekday: str, moment: int) -> None:
    def fits(text: str, value: int) -> bool:
        return text == "*" or (value % int(text[2:]) == 0 if text.startswith("*/") else value == int(text))

    days = {"*": range(7), "MON": [0], "1-5": range(5), "0": [6]}[weekday]
    start = datetime.fromtimestamp(moment, UTC).replace(second=0) + timedelta(minutes=1)
    minutes = (start + timedelta(minutes=number) for number in range(2 * 24 * 60))
    expected = [m.timestamp() for m in minutes if fits(minute, m.minute) and fits(hour, m.hour) and m.weekday() in days]
    end = start.timestamp() + 2 * DAY_S
    assert within(f"{minute} {hour} * * {weekday}", "UTC", moment, end) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "five fields"),
        ("* * * * * *", "five fields"),
        ("@daily", "five fields"),
        ("61 * * * *", "Bad minute"),
        ("* * * * x", "Bad day-of-week"),
        ("0 0 31 2 *", "Bad day-of-month"),
        ("*" * 300, "at most 200"),
    ],
)
def test_a_bad_line_is_told_with_the_reason(line: str, words: str) -> None:
    (violation,) = CronLine(line, "UTC").violations()
    assert violation.field == "cron"
    assert words in violation.description


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../../etc/passwd", "America", "/etc/localtime", "europe/berlin\0"])
def test_a_zone_must_be_one(zone: str) -> None:
    assert [violation.field for violation in CronLine("0 0 * * *", zone).violations()] == ["time_zone"]


NOON = berlin(2026, 11, 25, 12)
HOURLY = Timing("0 * * * *", "Europe/Berlin")


@pytest.mark.parametrize(
    ("policy", "grace_s", "first", "now", "runs", "covered", "missed"),
    [
        ("run_once", HOUR_S, NOON, NOON + 1, [NOON], 0, None),
        ("run_once", 4 * HOUR_S, NOON, NOON + 2.5 * HOUR_S, [NOON + 2 * HOUR_S], 2, None),
        ("run_once", HOUR_S, NOON, NOON + 2.5 * HOUR_S, [NOON + 2 * HOUR_S], 0, NOON),
        ("run_once", 600, NOON, NOON + 2.5 * HOUR_S, [], 0, NOON),
        ("skip_missed", HOUR_S, NOON, NOON + 30, [NOON], 0, None),
        ("skip_missed", HOUR_S, NOON, NOON + 61, [], 0, NOON),
        ("skip_missed", HOUR_S, NOON, NOON + 2 * HOUR_S + 5, [NOON + 2 * HOUR_S], 0, NOON),
        ("run_all", 4 * HOUR_S, NOON, NOON + 2.5 * HOUR_S, [NOON, NOON + HOUR_S, NOON + 2 * HOUR_S], 0, None),
        ("run_all", 2 * HOUR_S, NOON, NOON + 2.5 * HOUR_S, [NOON + HOUR_S, NOON + 2 * HOUR_S], 0, NOON),
    ],
)
def test_what_was_missed(
    policy: str, grace_s: float, first: float, now: float, runs: list[float], covered: int, missed: float | None
) -> None:
    timing = Timing("0 * * * *", "Europe/Berlin", misfire_policy=policy, misfire_grace_s=grace_s)  # type: ignore[arg-type]
    plan = plan_due(timing, first, now)
    assert (list(plan.runs), plan.covered, plan.missed) == (runs, covered, missed)
    assert plan.next_run_time == HOURLY.line.after(now)


def test_a_long_absence_starts_no_flood() -> None:
    timing = Timing("* * * * *", misfire_policy="run_all", misfire_grace_s=7 * DAY_S)
    plan = plan_due(timing, NOON, NOON + 365 * DAY_S)
    assert len(plan.runs) == MOST_RUNS
    assert plan.runs[-1] == NOON + 365 * DAY_S
    assert plan.missed == NOON


def test_start_and_end() -> None:
    timing = Timing("0 * * * *", start_time=NOON, end_time=NOON + 2 * HOUR_S)
    assert timing.next_after(NOON - DAY_S) == NOON
    assert timing.next_after(NOON) == NOON + HOUR_S
    assert timing.next_after(NOON + HOUR_S) is None
    plan = plan_due(timing, NOON + HOUR_S, NOON + 2.5 * HOUR_S)
    assert (plan.runs, plan.missed, plan.next_run_time) == ((), NOON + HOUR_S, None)
    late = plan_due(timing, NOON + HOUR_S, NOON + HOUR_S + 5)
    assert (late.runs, late.next_run_time) == ((NOON + HOUR_S,), None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models:/digits@champion", RegistryReference("digits", alias="champion")),
        ("models:/my model/12", RegistryReference("my model", version="12")),
        ("models:/digits/0", None),
        ("models:/digits/latest", None),
        ("models:/digits", None),
        ("models:/../../etc/passwd/1", None),
        ("models:/a' or 'b@x", None),
        ("models:/a\n@x", None),
        ("projects/default/models/m", None),
    ],
)
def test_references(text: str, expected: RegistryReference | None) -> None:
    assert RegistryReference.parse(text) == expected


@pytest.mark.parametrize(
    ("name", "alias"), [("", "x"), ("a/b", "x"), ("a`", "x"), ("a", ""), ("a", "v1"), ("a", "Latest"), ("a", "é")]
)
def test_entries_that_mlflow_would_not_take(name: str, alias: str) -> None:
    assert len(RegistryEntry(name, alias).violations()) == 1
