"""A search that workers die of again and again ends, and what was found in it stays; others do not wait for ever."""

from __future__ import annotations

import dataclasses
import time

import pytest
from sqlalchemy import select, update

from search.environment import SearchOutcome
from search.plan import plan_search
from search.planning import PHASE as PLAN
from search.protocols import BASELINE
from search.spec import Effort
from service.errors import PreconditionError
from service.store.database import Database
from service.store.pages import PageRequest
from service.store.schema import SearchRow
from service.store.search_catalogue import SearchCatalogue, StoredSearch
from service.store.search_queue import MAX_ATTEMPTS, ClaimedSearch, SearchQueue, process_identity
from service.store.search_store import SqlCandidateStore
from service.store.untracked import UntrackedSearches
from tests.search.test_plan import KNOWN
from tests.service.fakes import record
from tests.service.test_store import add_search

NAME = "projects/p/searches/s"
DEAD = process_identity().rpartition("|")[0] + "|1"


def _die(database: Database, times: int, owner: str = DEAD) -> ClaimedSearch | None:
    """Workers that take the next search and are killed."""
    claimed = None
    for _ in range(times):
        claimed = SearchQueue(database, owner, 1000.0).claim()
    return claimed


def _an_hour_passes(database: Database) -> None:
    with database.write() as session:
        session.execute(update(SearchRow).values(attempts_since=SearchRow.attempts_since - 3600.0))


def _pause_is_over(database: Database) -> None:
    with database.write() as session:
        session.execute(update(SearchRow).values(lease_expires=0.0))


def _stored(database: Database) -> StoredSearch:
    return SearchCatalogue(database).get(NAME)


def test_a_search_that_every_worker_dies_of_is_given_up_and_the_next_one_runs(database: Database) -> None:
    add_search(database)
    add_search(database, "next")
    last = _die(database, MAX_ATTEMPTS)
    assert last is not None
    assert last.name == NAME
    _an_hour_passes(database)
    following = SearchQueue(database, "alive", 10.0).claim()
    assert following is not None
    assert following.name == "projects/p/searches/next"
    stored = _stored(database)
    assert stored.state == "FAILED"
    assert stored.state_message == (
        "10 workers in 60 minutes ended before they had found anything new: the last one's process died; it may have run out of "
        "memory. "
        "The worker's log may say more; extend the search to go on from here"
    )
    assert SearchCatalogue(database).events_after(NAME, 0)[-1].message == stored.state_message
    assert [search.name for search in UntrackedSearches(database).pending()] == [NAME]


def test_whoever_finds_something_new_gives_the_search_all_its_attempts_again(database: Database) -> None:
    search_id = add_search(database).search_id
    for number in range(3):
        assert _die(database, MAX_ATTEMPTS) is not None
        SqlCandidateStore(database, search_id, DEAD).save_candidate(record(number))
        _an_hour_passes(database)
    assert _die(database, 1) is not None
    assert _stored(database).state == "RUNNING"


def test_deaths_within_minutes_are_no_fault_of_the_search(database: Database) -> None:
    add_search(database)
    assert _die(database, 10 * MAX_ATTEMPTS) is not None
    _an_hour_passes(database)
    assert _die(database, 1) is None
    assert _stored(database).state_message.startswith("100 workers in 60 minutes ended")


def test_the_original_is_nothing_new(database: Database) -> None:
    search_id = add_search(database).search_id
    for _ in range(MAX_ATTEMPTS):
        _die(database, 1)
        original = dataclasses.replace(record(0), candidate_id=BASELINE, trial_number=-1)
        SqlCandidateStore(database, search_id, DEAD).save_candidate(original)
    _an_hour_passes(database)
    assert _die(database, 1) is None
    assert _stored(database).state == "FAILED"


def test_a_worker_that_is_told_to_end_costs_no_attempt(database: Database) -> None:
    search_id = add_search(database).search_id
    for _ in range(2 * MAX_ATTEMPTS):
        queue = SearchQueue(database, "polite", 1000.0)
        assert queue.claim() is not None
        queue.release(search_id)
    _an_hour_passes(database)
    assert _die(database, 1) is not None


def test_trouble_that_a_worker_survives_is_told_and_counts(database: Database) -> None:
    search_id = add_search(database).search_id
    for _ in range(MAX_ATTEMPTS):
        queue = SearchQueue(database, "alive", 1000.0)
        assert queue.claim() is not None
        queue.release_after(search_id, "Ray went away")
        assert _stored(database).state_message == "Ray went away"
        _pause_is_over(database)
    _an_hour_passes(database)
    assert queue.claim() is None
    assert "had found anything new: Ray went away. The worker's log" in _stored(database).state_message


def test_a_cancelled_search_that_no_worker_survives_is_cancelled(database: Database) -> None:
    add_search(database)
    _die(database, MAX_ATTEMPTS)
    SearchCatalogue(database).cancel(NAME)
    _an_hour_passes(database)
    assert _die(database, 1) is None
    assert _stored(database).state == "CANCELLED"
    assert [search.outcome for search in UntrackedSearches(database).pending()] == [None]


def test_a_cancelled_search_whose_worker_died_is_never_taken_again(database: Database) -> None:
    search_id = add_search(database).search_id
    add_search(database, "next")
    queue = SearchQueue(database, "dies", 1000.0)
    assert queue.claim() is not None
    store = SqlCandidateStore(database, search_id, "dies")
    store.save_candidate(record(1))
    store.record_process_group(4242)
    SearchCatalogue(database).cancel(NAME)
    assert _stored(database).state == "RUNNING", "its worker still has it"
    with database.write() as session:
        session.execute(update(SearchRow).where(SearchRow.id == search_id).values(lease_expires=1.0))
    alive = SearchQueue(database, "alive", 1000.0)
    following = alive.claim()
    assert following is not None
    assert following.name == "projects/p/searches/next"
    assert _stored(database).state == "CANCELLED"
    assert [made.candidate_id for made in SearchCatalogue(database).candidates(NAME)] == ["c0001"]
    assert alive.abandoned_groups() == {search_id: (4242,)}
    alive.forget_process_groups(search_id)
    assert alive.abandoned_groups() == {}


def test_cancelling_a_search_that_nobody_works_on_ends_it_at_once(database: Database) -> None:
    search_id = add_search(database).search_id
    queue = SearchQueue(database, "polite", 1000.0)
    assert queue.claim() is not None
    queue.release(search_id)
    SearchCatalogue(database).cancel(NAME)
    assert _stored(database).state == "CANCELLED"
    assert SearchQueue(database, "alive", 1000.0).claim() is None
    assert SearchCatalogue(database).events_after(NAME, 0)[-1].payload == {"state": "CANCELLED"}


def test_groups_of_a_worker_that_lives_are_not_abandoned(database: Database) -> None:
    search_id = add_search(database).search_id
    queue = SearchQueue(database, "alive", 1000.0)
    assert queue.claim() is not None
    SqlCandidateStore(database, search_id, "alive").record_process_group(4242)
    assert queue.abandoned_groups() == {}
    queue.finish(search_id, SearchOutcome("CANCELLED", "stopped"))
    assert queue.abandoned_groups() == {}


def test_an_extended_search_has_all_its_attempts_again(database: Database) -> None:
    add_search(database)
    _die(database, MAX_ATTEMPTS)
    _an_hour_passes(database)
    assert _die(database, 1) is None
    SearchCatalogue(database).extend(NAME, 2, 0.0, "", "", "")
    assert _die(database, MAX_ATTEMPTS) is not None


def test_an_extended_search_shows_no_plan_of_what_was_asked_for_before(database: Database) -> None:
    search_id = add_search(database).search_id
    queue = SearchQueue(database, "alive", 1000.0)
    assert queue.claim() is not None
    plan = plan_search(Effort(max_trials=4, max_wall_time_s=600.0), KNOWN)
    SqlCandidateStore(database, search_id, "alive").save_phase(PLAN, plan.to_json())
    assert _stored(database).plan == plan
    queue.finish(search_id, SearchOutcome("CANCELLED", "stopped"))
    assert SearchCatalogue(database).extend(NAME, 2, 0.0, "", "", "").plan is None


def test_a_worker_that_has_lost_its_lease_lets_go_of_nothing(database: Database) -> None:
    search_id = add_search(database).search_id
    _die(database, 3)
    assert SearchQueue(database, "alive", 1000.0).claim() is not None
    late = SearchQueue(database, DEAD, 1000.0)
    late.release(search_id)
    late.release_after(search_id, "too late")
    assert _stored(database).state_message == ""
    assert SearchQueue(database, "another", 1000.0).claim() is None


def test_what_could_not_go_on_is_left_alone_longer_and_longer(database: Database) -> None:
    """A cluster that is away answers within a millisecond: found by a reviewer, a hundred thousand events in half an hour."""
    search_id = add_search(database).search_id
    queue, pauses = SearchQueue(database, "alive", 1000.0), []
    for _ in range(4):
        assert queue.claim() is not None
        queue.release_after(search_id, "no cluster answers")
        with database.read() as session:
            pauses.append(session.scalars(select(SearchRow.lease_expires)).one() - time.time())
        _pause_is_over(database)
    assert pauses[0] <= 0
    assert 0 < pauses[1] < pauses[2] < pauses[3]
    queue.claim()
    queue.release_after(search_id, "no cluster answers")
    assert queue.claim() is None, "another may come first"
    SearchCatalogue(database).cancel(NAME)
    assert _stored(database).state == "CANCELLED", "nobody works on it"


def test_a_request_that_this_version_cannot_read_fails_with_the_reason_and_the_next_one_runs(database: Database) -> None:
    add_search(database)
    add_search(database, "next")
    with database.write() as session:
        row = session.scalar(select(SearchRow).filter_by(name=NAME))
        assert row is not None
        row.spec_json = row.spec_json.replace('"max_trials"', '"most_candidates"')
    following = SearchQueue(database, "alive", 10.0).claim()
    assert following is not None
    assert following.name == "projects/p/searches/next"
    stored = _stored(database)
    assert stored.state == "FAILED"
    assert "cannot read the request" in stored.state_message
    assert "most_candidates" in stored.state_message
    listed = SearchCatalogue(database).list("p", PageRequest.parse(0, "", "searches of projects/p"))
    assert NAME in [one.name for one in listed.items]
    with pytest.raises(PreconditionError, match="another version"):
        SearchCatalogue(database).extend(NAME, 1, 0.0, "", "", "")
