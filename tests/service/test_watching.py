from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from search.protocols import Event
from search.spec import Budget, SearchSpec
from service.errors import NotFoundError, ServerStoppingError
from service.store.database import Database
from service.store.event_reader import EventReader
from service.store.events import append_events
from service.store.search_catalogue import NewSearch, SearchCatalogue
from service.store.search_queue import SearchQueue
from service.watching import PAGE_EVENTS, WINDOW_EVENTS, EventHub

SPEC = SearchSpec("a" * 64, "b" * 64, "cpu-ort-1t", Budget(latency_ms=1.0, max_accuracy_drop_points=1.0))


def name_of(number: int) -> str:
    return f"projects/p/searches/s{number}"


@pytest.fixture
def catalogue(sqlite_database: Database) -> SearchCatalogue:
    return SearchCatalogue(sqlite_database)


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    database.migrate()
    return database


class CountingReader(EventReader):
    """Counts what the hub asks."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked_after: list[int] = []

    def after(self, search_id, sequence, limit):  # type: ignore[no-untyped-def]
        self.asked_after.append(sequence)
        return super().after(search_id, sequence, limit)


@pytest.fixture
def reader(sqlite_database: Database) -> CountingReader:
    return CountingReader(sqlite_database)


@pytest.fixture
async def hub(reader: CountingReader) -> AsyncIterator[EventHub]:
    made = EventHub(reader, poll_s=0.01)
    yield made
    await made.close()


def create(catalogue: SearchCatalogue, number: int = 0) -> int:
    new = NewSearch(name_of(number), "p", "", "projects/p/models/m", "projects/p/datasets/d", SPEC, 1.0)
    return catalogue.create(new, "", "").search_id


def append(database: Database, search_id: int, count: int, text: str = "") -> None:
    with database.write() as session:
        append_events(session, search_id, [Event("phase", f"{text}{number}") for number in range(count)])


async def collect(hub: EventHub, name: str, after: int = 0, into: list[int] | None = None) -> list[int]:
    seen = [] if into is None else into
    async for event in hub.follow(name, after):
        seen.append(event.sequence)
    return seen


async def seen_at_least(seen: list[int], count: int) -> None:
    async with asyncio.timeout(10):
        while len(seen) < count:
            await asyncio.sleep(0.005)


async def test_many_streams_get_each_event_once_while_the_store_is_read_once(
    hub: EventHub, reader: CountingReader, catalogue: SearchCatalogue, sqlite_database: Database
) -> None:
    ids = [create(catalogue, number) for number in range(3)]
    streams: list[list[int]] = [[] for _ in range(60)]
    tasks = [asyncio.create_task(collect(hub, name_of(i % 3), into=seen)) for i, seen in enumerate(streams)]
    for seen in streams:
        await seen_at_least(seen, 1)
    reader.asked_after.clear()
    writer = threading.Thread(target=lambda: [append(sqlite_database, search_id, 5) for _ in range(8) for search_id in ids])
    writer.start()
    for seen in streams:
        await seen_at_least(seen, 41)
    writer.join()
    for number in range(3):
        catalogue.cancel(name_of(number))
    assert await asyncio.gather(*tasks) == [list(range(1, 43))] * 60
    assert len(reader.asked_after) <= 3 * 9, "each new event is read once for all twenty streams of its search"
    assert hub._watched == {}


@pytest.mark.parametrize("after", [0, 3, WINDOW_EVENTS, 2 * WINDOW_EVENTS, 2 * WINDOW_EVENTS + 60])
async def test_a_stream_replays_then_follows(
    hub: EventHub, catalogue: SearchCatalogue, sqlite_database: Database, after: int
) -> None:
    search_id = create(catalogue)
    append(sqlite_database, search_id, 2 * WINDOW_EVENTS)
    seen: list[int] = []
    task = asyncio.create_task(collect(hub, name_of(0), after, seen))
    await seen_at_least(seen, max(0, 2 * WINDOW_EVENTS + 1 - after))
    append(sqlite_database, search_id, 70)
    catalogue.cancel(name_of(0))
    async with asyncio.timeout(10):
        await task
    assert seen == list(range(after + 1, 2 * WINDOW_EVENTS + 73))


async def test_a_reader_that_is_slow_falls_back_to_the_store_and_loses_nothing(
    hub: EventHub, reader: CountingReader, catalogue: SearchCatalogue, sqlite_database: Database
) -> None:
    search_id = create(catalogue)
    fast: list[int] = []
    task = asyncio.create_task(collect(hub, name_of(0), into=fast))
    slow = hub.follow(name_of(0), 0)
    assert (await anext(slow)).sequence == 1
    total = 3 * WINDOW_EVENTS
    append(sqlite_database, search_id, total)
    await seen_at_least(fast, total + 1)
    watched = next(iter(hub._watched.values()))
    assert len(watched.window) == WINDOW_EVENTS, "what a slow reader has not read is not kept for it"
    reader.asked_after.clear()
    catalogue.cancel(name_of(0))
    assert [event.sequence async for event in slow] == list(range(2, total + 3))
    pages = [asked for asked in reader.asked_after if asked < total + 1]
    assert len(pages) >= (total - WINDOW_EVENTS) // PAGE_EVENTS - 1
    await task


async def test_a_search_deleted_while_watched_is_not_found(
    hub: EventHub, catalogue: SearchCatalogue, sqlite_database: Database
) -> None:
    search_id = create(catalogue)
    queue = SearchQueue(sqlite_database, "me", 10.0)
    claimed = queue.claim()
    assert claimed is not None
    seen: list[int] = []
    task = asyncio.create_task(collect(hub, name_of(0), into=seen))
    await seen_at_least(seen, 2)
    with sqlite_database.write() as session:  # ended and deleted between two looks
        session.connection().exec_driver_sql("DELETE FROM searches WHERE id = ?", (search_id,))
    with pytest.raises(NotFoundError, match="was deleted"):
        await task
    with pytest.raises(NotFoundError, match="does not exist"):
        await collect(hub, name_of(0))
    create(catalogue)
    catalogue.cancel(name_of(0))
    assert await collect(hub, name_of(0)) == [1, 2], "another search of that name is another search"


async def test_a_search_that_was_extended_is_followed_again(hub: EventHub, catalogue: SearchCatalogue) -> None:
    create(catalogue)
    catalogue.cancel(name_of(0))
    assert await collect(hub, name_of(0)) == [1, 2]
    half_read = hub.follow(name_of(0), 0)
    await anext(half_read)
    catalogue.extend(name_of(0), 1, 0.0, "", "", "")
    seen: list[int] = []
    task = asyncio.create_task(collect(hub, name_of(0), 2, seen))
    await seen_at_least(seen, 1)
    assert not task.done()
    catalogue.cancel(name_of(0))
    await task
    assert seen == [3, 4]
    await half_read.aclose()


async def test_a_stream_that_is_given_up_frees_everything(hub: EventHub, catalogue: SearchCatalogue) -> None:
    create(catalogue)
    tasks = [asyncio.create_task(collect(hub, name_of(0), into=[])) for _ in range(5)]
    async with asyncio.timeout(10):
        while sum(len(watched.waiting) for watched in hub._watched.values()) < 5:
            await asyncio.sleep(0.005)
    poller = hub._poller
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert hub._watched == {}
    assert poller is not None
    async with asyncio.timeout(10):
        await poller


async def test_watchers_are_sent_elsewhere_when_the_server_stops(hub: EventHub, catalogue: SearchCatalogue) -> None:
    create(catalogue)
    seen: list[int] = []
    task = asyncio.create_task(collect(hub, name_of(0), into=seen))
    await seen_at_least(seen, 1)
    await hub.close()
    with pytest.raises(ServerStoppingError):
        await task


async def test_a_store_that_is_away_for_a_moment_loses_no_event(
    catalogue: SearchCatalogue, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id = create(catalogue)
    monkeypatch.setattr("service.watching._AFTER_FAILURE_S", 0.01)
    failures = iter([True, True, True])

    class FailingReader(EventReader):
        def heads(self, search_ids):  # type: ignore[no-untyped-def]
            if next(failures, False):
                raise OSError("away")
            return super().heads(search_ids)

    hub = EventHub(FailingReader(sqlite_database), poll_s=0.01)
    seen: list[int] = []
    task = asyncio.create_task(collect(hub, name_of(0), into=seen))
    await seen_at_least(seen, 1)
    append(sqlite_database, search_id, 3)
    catalogue.cancel(name_of(0))
    async with asyncio.timeout(10):
        await task
    assert seen == [1, 2, 3, 4, 5]
    await hub.close()
