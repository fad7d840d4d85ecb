"""SearchService."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty

from paretopress.v1 import search_pb2, search_pb2_grpc
from search.errors import FieldViolation, InvalidSpecError
from search.limits import broken_limits
from search.pareto import nearest, pick
from search.protocols import BASELINE, BlobStore
from search.sized import size_violations, sized
from service.converters.candidates import candidate_to_proto
from service.converters.enums import seconds_of
from service.converters.inputs import parse_parent
from service.converters.searches import (
    Lookups,
    broken_limits_to_proto,
    pick_from_proto,
    search_from_proto,
    search_to_proto,
)
from service.errors import InvalidRequestError, NotFoundError, PreconditionError
from service.estimate import Estimator
from service.monitoring.tracing import current_trace
from service.resources import CandidateName, ProjectName, SearchName
from service.store.input_store import InputStore
from service.store.pages import PageRequest
from service.store.requests import fingerprint
from service.store.search_catalogue import NewSearch, SearchCatalogue, StoredSearch
from service.targets.directory import TargetDirectory
from service.watching import EventHub

_CHUNK_BYTES = 256 << 10


@dataclass(frozen=True)
class SearchStores:
    """What the servicer reads and writes. ``techniques`` may take a second the first time."""

    searches: SearchCatalogue
    events: EventHub
    models: InputStore
    datasets: InputStore
    blobs: BlobStore
    estimator: Estimator
    targets: TargetDirectory
    techniques: Callable[[], Collection[str]]

    def lookups(self, project: str) -> Lookups:
        """How the requests of a project are resolved."""
        targets = {name: known.target for name, known in self.targets.all(project).items()}
        return Lookups(self.models.find, self.datasets.find, targets, self.techniques)


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Thin: requests are parsed here and stored; a worker does the work."""

    def __init__(self, stores: SearchStores) -> None:
        self._stores = stores
        self._searches = stores.searches

    async def CreateSearch(self, request: search_pb2.CreateSearchRequest, context: Any) -> search_pb2.Search:
        """Check, estimate, queue."""
        return search_to_proto(await asyncio.to_thread(self._create, request))

    def _create(self, request: search_pb2.CreateSearchRequest) -> StoredSearch:
        digest = fingerprint(request)
        project = parse_parent(request.parent, []).project
        known = self._searches.recall(project, request.request_id, digest)
        if known is not None:
            return known
        stores = self._stores
        parsed = search_from_proto(request, stores.lookups(project))
        plan = stores.estimator.plan(parsed.spec, parsed.model, parsed.dataset)
        new = NewSearch(
            name=parsed.name,
            project=parsed.project,
            display_name=parsed.display_name,
            model=parsed.model.name,
            dataset=parsed.dataset.name,
            spec=parsed.spec,
            estimated_duration_s=plan.duration_s,
            dataset_notes=parsed.dataset.dataset.notes,
            trace=current_trace(),
        )
        if request.validate_only:
            return StoredSearch(**vars(new), plan=plan)
        return self._searches.create(new, request.request_id, digest)

    async def GetSearch(self, request: search_pb2.GetSearchRequest, context: Any) -> search_pb2.Search:
        """One by name."""
        name = SearchName.from_name(request.name).name
        return search_to_proto(await asyncio.to_thread(self._searches.get, name))

    async def ListSearches(self, request: search_pb2.ListSearchesRequest, context: Any) -> search_pb2.ListSearchesResponse:
        """A page, newest first."""
        parent = ProjectName.from_name(request.parent, "parent")
        asked = PageRequest.parse(request.page_size, request.page_token, f"searches of {parent.name}")
        page = await asyncio.to_thread(self._searches.list, parent.project, asked)
        searches = map(search_to_proto, page.items)
        return search_pb2.ListSearchesResponse(searches=searches, next_page_token=page.next_page_token)

    async def WatchSearch(self, request: search_pb2.WatchSearchRequest, context: Any) -> AsyncIterator[search_pb2.SearchEvent]:
        """Replay, then follow to the end."""
        name, sequence = SearchName.from_name(request.name).name, request.after_sequence
        if sequence < 0:
            raise InvalidRequestError.of("after_sequence", f"must not be negative, got {sequence}")
        async with contextlib.aclosing(self._stores.events.follow(name, sequence)) as events:
            async for event in events:
                yield event

    async def CancelSearch(self, request: search_pb2.CancelSearchRequest, context: Any) -> search_pb2.Search:
        """Ask for the end."""
        name = SearchName.from_name(request.name).name
        return search_to_proto(await asyncio.to_thread(self._searches.cancel, name, request.etag))

    async def DeleteSearch(self, request: search_pb2.DeleteSearchRequest, context: Any) -> Empty:
        """Forget one that has ended."""
        await asyncio.to_thread(self._searches.delete, SearchName.from_name(request.name).name, request.etag)
        return Empty()

    async def PickBest(self, request: search_pb2.PickBestRequest, context: Any) -> search_pb2.PickBestResponse:
        """Another best among the measured candidates."""
        return await asyncio.to_thread(self._pick, request)

    def _pick(self, request: search_pb2.PickBestRequest) -> search_pb2.PickBestResponse:
        name = SearchName.from_name(request.name).name
        budget, preference = pick_from_proto(request)
        search = self._searches.get(name)
        spec = search.spec
        if budget.latency_ms is not None and budget.batch_size != spec.budget.batch_size:
            words = f"this search measured batches of {spec.budget.batch_size}, not of {budget.batch_size}"
            raise InvalidRequestError([FieldViolation("budget.batch_size", words)])
        target = self._stores.targets.all(search.project).get(spec.target)
        if target is not None:
            asked = replace(spec, budget=budget)
            if found := size_violations(asked, target.target):
                raise InvalidRequestError(found)
            budget = sized(asked, target.target).budget
        finalists = [r for r in self._searches.candidates(name) if "selection" in r.drop_points]  # the original competes
        if all(r.candidate_id == BASELINE for r in finalists):
            raise PreconditionError(f"{name} has no finalists yet; wait until it has ended")
        best = pick(finalists, budget, preference)
        if best is not None:
            return search_pb2.PickBestResponse(candidate=candidate_to_proto(name, best), feasible=True)
        closest = nearest(finalists, budget)
        if closest is None:
            raise PreconditionError(f"{name} has no living finalists")
        broken = broken_limits_to_proto(broken_limits(closest, budget))
        return search_pb2.PickBestResponse(candidate=candidate_to_proto(name, closest), broken_limits=broken)

    async def ExtendSearch(self, request: search_pb2.ExtendSearchRequest, context: Any) -> search_pb2.Search:
        """Queue an ended search again, with more effort."""
        return search_to_proto(await asyncio.to_thread(self._extend, request))

    def _extend(self, request: search_pb2.ExtendSearchRequest) -> StoredSearch:
        name = SearchName.from_name(request.name).name
        more_s = seconds_of(request.additional_wall_time)
        found = []
        if request.additional_trials < 1:
            found.append(FieldViolation("additional_trials", f"must be at least 1, got {request.additional_trials}"))
        if more_s < 0:
            found.append(FieldViolation("additional_wall_time", f"must not be negative, got {more_s} s"))
        if found:
            raise InvalidRequestError(found)
        asked = (name, request.additional_trials, more_s, request.etag, request.request_id, fingerprint(request))
        try:
            return self._searches.extend(*asked)
        except InvalidSpecError as error:
            raise InvalidRequestError([FieldViolation("additional_trials", v.description) for v in error.violations]) from error

    async def ListCandidates(self, request: search_pb2.ListCandidatesRequest, context: Any) -> search_pb2.ListCandidatesResponse:
        """A page, by trial."""
        parent = SearchName.from_name(request.parent, "parent").name
        scope = f"candidates of {parent}, front only: {request.front_only}"
        asked = PageRequest.parse(request.page_size, request.page_token, scope)
        records = await asyncio.to_thread(self._searches.candidates, parent)
        kept = [r for r in records if not request.front_only or r.state in ("front", "best")]
        start = max(0, asked.after_id or 0)
        rows = list(enumerate(kept[start : start + asked.size + 1], start + 1))
        page = asked.page(rows, lambda row: row[0])
        candidates = [candidate_to_proto(parent, record) for _, record in page.items]
        return search_pb2.ListCandidatesResponse(candidates=candidates, next_page_token=page.next_page_token)

    async def GetCandidate(self, request: search_pb2.GetCandidateRequest, context: Any) -> search_pb2.Candidate:
        """One by name."""
        name = CandidateName.from_name(request.name)
        record = await asyncio.to_thread(self._searches.candidate, name.search_name, name.candidate)
        return candidate_to_proto(name.search_name, record)

    async def DownloadArtifact(
        self, request: search_pb2.DownloadArtifactRequest, context: Any
    ) -> AsyncIterator[search_pb2.DownloadArtifactResponse]:
        """Header, then chunks from the offset on."""
        digest = await asyncio.to_thread(self._artifact_digest, request.name, request.artifact)
        path: Path = await asyncio.to_thread(self._stores.blobs.local_path, digest)
        size = path.stat().st_size
        if not 0 <= request.offset <= size:
            raise InvalidRequestError.of("offset", f"must be between 0 and the size, {size}; got {request.offset}")
        header = search_pb2.DownloadHeader(size_bytes=size, sha256=digest)
        yield search_pb2.DownloadArtifactResponse(header=header)
        with path.open("rb") as file:
            file.seek(request.offset)
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                yield search_pb2.DownloadArtifactResponse(chunk=chunk)

    def _artifact_digest(self, name: str, artifact: str) -> str:
        if "/candidates/" in name:
            candidate = CandidateName.from_name(name)
            files = dict(self._searches.candidate(candidate.search_name, candidate.candidate).artifacts)
        else:
            outcome = self._searches.get(SearchName.from_name(name).name).outcome
            digest = outcome.get("report_sha256")
            files = {"report.json": digest} if digest else {}
        if artifact not in files:
            raise NotFoundError(f"{name} has no file {artifact!r}; it has {sorted(files)}")
        return str(files[artifact])
