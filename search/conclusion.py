"""From the last rung to the answer: finalists measured, front and best decided, test touched once, report written."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from paretopress.runtime.settled import has_settled
from search.attempts import Attempts, attempt, supervised
from search.baseline import file_accuracy
from search.clock import Clock
from search.effort_plan import effort_notes
from search.environment import SearchEnvironment, SearchOutcome
from search.errors import OptionSkippedError, SearchError
from search.evaluation.accuracy import drop_points
from search.evaluation.audits import audited
from search.evaluation.latency import LatencyError, LatencyResult
from search.evaluation.metrics.base import AccuracyResult
from search.execution.runner import run_quietly
from search.file_counts import count_notes
from search.finalists import Exported, export, packed, read_selection, with_latency
from search.finals_time import GAP_IMAGES
from search.limits import broken_limits
from search.pareto import MAX_FINALISTS, choose_finalists, front, nearest, pick
from search.places import PHASE as PLACES_PHASE
from search.places import Places
from search.protocols import BASELINE, CandidateRecord, CandidateStore, Event, Measurement, Progress
from search.report import ReportInputs, build_report
from search.runtimes import measure_on, runtime_of
from search.setup import Setup
from search.spec import SearchSpec
from search.survey import TECHNIQUES_PHASE
from search.tracking.ended import log_ended, remember_untracked
from search.tracking.outbox import Outbox

GAPS_LIMIT_S, _GAPS_AT_LEAST_S = 300.0, 5.0


@dataclass(frozen=True)
class Finals:
    """What the finalists' rung found; records are those stored, notes are for the report."""

    baseline: CandidateRecord
    finalists: tuple[CandidateRecord, ...]
    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    replaced: tuple[CandidateRecord, ...] = ()
    """Front and best of an earlier end of the search that are no finalists now."""


def run_finals(setup: Setup, environment: SearchEnvironment, ends_at: float = math.inf) -> Finals:
    """Export the finalists, read them on the selection split, measure them beside the original, store them.

    A candidate that cannot be exported or measured has failed, with the reason; the next best takes its place.

    Args:
        ends_at: of `time.monotonic`: when the wall time is up. Once there is one finalist, no further one is begun that would leave
            too little of it for measuring, and rounds of measuring are added within it only.

    Raises:
        SearchError: there is no candidate at all; says what the trials died of.
        SearchCancelledError: the search is to stop; seen within seconds.
    """
    store = environment.store
    setup.evaluator.files.interrupt.unlink(missing_ok=True)  # what ended the last trial is to end nothing now
    records = [r for r in store.candidates() if r.candidate_id != BASELINE]
    chosen = choose_finalists(records, setup.spec, 2 * MAX_FINALISTS)
    if not chosen:
        errors = sorted({r.error for r in records if r.error}) or ["no recipe could be made for this network and budget"]
        raise SearchError(f"no candidate could be evaluated: {'; '.join(errors[:3])}")
    original = supervised(lambda: _selection(setup), store.should_stop, math.inf)
    exported = _exported(chosen, original, setup, environment, ends_at)
    measured = _measured(exported, setup, store, ends_at)
    exported = [e for e in exported if e.record.candidate_id in measured]
    if not exported:
        raise SearchError(f"no finalist could be exported and measured: {_failures(store)}")
    baseline = _finished_baseline(setup, original, measured[BASELINE])
    finalists = with_latency(exported, measured)
    members = {r.candidate_id for r in front(finalists, setup.spec.budget)}
    finalists = [_decided(r, setup, r.candidate_id in members) for r in finalists]
    store.save_candidate(baseline)
    chosen_ids = {r.candidate_id for r in finalists}
    replaced = [replace(r, state="finalist") for r in records if r.state in ("front", "best") and r.candidate_id not in chosen_ids]
    for record in [*finalists, *replaced]:
        store.save_candidate(record)
    listed = sorted((r for r in finalists if r.state == "front"), key=lambda r: r.measurements["latency_ms"].value)
    names = [record.candidate_id for record in listed]
    store.append(Event("front", f"{len(names)} on the front: {', '.join(names) or 'none'}", {"candidates": names}))
    models = {BASELINE: setup.original.file, **{e.record.candidate_id: e.file for e in exported}}
    notes = _once([e.note for e in exported if e.note], count_notes([baseline, *finalists]))
    return Finals(baseline, tuple(finalists), models, notes, tuple(replaced))


def _selection(setup: Setup) -> AccuracyResult:
    view = setup.original.data.split("selection")
    return file_accuracy(setup.original.file, view, setup.reading, None, setup.target, setup.runner.cpus)


def _exported(
    chosen: Sequence[CandidateRecord], original: AccuracyResult, setup: Setup, environment: SearchEnvironment, ends_at: float
) -> list[Exported]:
    store, attempts = environment.store, Attempts(environment.store)
    view, threads, batch = setup.original.data.split("selection"), setup.runner.cpus, setup.spec.budget.batch_size
    exported: list[Exported] = []
    most = min(len(chosen), MAX_FINALISTS)
    for record in chosen:
        if len(exported) == most:
            break
        file_s, after_s = setup.finals_time.file_s, setup.finals_time.after_export_s(len(exported) + 2)
        if exported and time.monotonic() + file_s + after_s > ends_at:
            store.append(Event("warning", f"the wall time was up: {len(exported)} of {most} finalists are exported"))
            break

        attempts.show("finalists", f"exporting {record.candidate_id}, the {len(exported) + 1}. of {most}")

        def finish(record: CandidateRecord = record) -> Exported:
            files = export(record, setup.evaluator, setup.pricer, environment.blobs, setup.target, batch)
            return read_selection(files, view, original, setup.reading, setup.target, threads)

        more_s = setup.evaluator.settings.untrained_limit_s + 2 * record.duration_s  # a lost checkpoint is trained again
        try:
            exported.append(attempts.attempt(f"export of {record.candidate_id}", finish, more_s))
        except OptionSkippedError as error:
            _has_failed(record, f"could not be exported: {error}", store)
        else:
            store.append(Event("phase", f"finalist {len(exported)} of {most}: {record.candidate_id} exported"))
            if exported[-1].note:
                store.append(Event("warning", exported[-1].note))
    attempts.done()
    return exported


def _has_failed(record: CandidateRecord, reason: str, store: CandidateStore) -> None:
    failed = replace(record, state="failed", error=reason)
    store.save_candidate(failed, [Event("warning", f"{record.candidate_id} {reason}")])


def _failures(store: CandidateStore) -> str:
    errors = [f"{r.candidate_id} {r.error}" for r in store.candidates() if r.state == "failed"]
    return "; ".join(errors[:3])


def _measured(exported: Sequence[Exported], setup: Setup, store: CandidateStore, ends_at: float) -> dict[str, Measurement]:
    """Latencies of the original and of all that can be measured; of a target elsewhere, the predicted ones."""
    if not setup.target.attached:
        predicted = {e.record.candidate_id: e.record.measurements["predicted_latency_ms"] for e in exported}
        return {BASELINE: setup.baseline.measurements["latency_ms"], **predicted}
    left = {e.record.candidate_id: e for e in exported}
    while left:
        files = {BASELINE: setup.original.file, **{name: one.file for name, one in left.items()}}
        try:
            return _measure(files, setup, store, ends_at)
        except LatencyError as error:
            named = [name for name in left if name in str(error)]
            if len(named) != 1:
                raise
            _has_failed(left.pop(named[0]).record, f"could not be measured: {error}", store)
    return {}


def _measure(files: Mapping[str, bytes], setup: Setup, store: CandidateStore, ends_at: float) -> dict[str, Measurement]:
    def limit_s() -> float:
        return setup.finals_time.measuring_limit_s(ends_at - time.monotonic())

    store.show(Progress("finalists", f"measuring {len(files)} networks turn by turn, for {limit_s():.0f} s at most"))
    results = run_quietly(
        measure_on,
        setup.runner,
        runtime_of(setup.target),
        files,
        setup.target,
        BASELINE,
        should_stop=store.should_stop,
        tell=lambda words: store.append(Event("warning", words)),
        ends_at=ends_at,
        limit_s=limit_s,
        batch=setup.spec.budget.batch_size,
    )
    warning = noise_warning(results)
    if warning:
        store.append(Event("warning", warning))
    return {name: result.measurement for name, result in results.items()}


def noise_warning(results: Mapping[str, LatencyResult]) -> str:
    """What to say of latencies that did not settle in the time for it; empty if all did."""
    doubtful = [name for name, result in results.items() if result.noisy]
    if not doubtful:
        return ""
    reference = next(iter(results.values()))
    return (
        f"the machine was busy while latencies were measured (the original's own drifted by {reference.drift_percent:.0f}%): those "
        f"of {', '.join(doubtful)} did not settle in {reference.measurement.rounds} rounds. Limits may be broken by doubt alone; "
        "extend the search by a trial on a quieter machine to measure again"
    )


def known_baseline(setup: Setup) -> CandidateRecord:
    """The original with all that a budget asks of it, as far as it is known without the finals: it loses nothing against itself."""
    record = setup.baseline
    container = packed(runtime_of(setup.target).artifact.name, setup.original.file, record.recipe_json)
    return replace(
        record,
        drop_points={**record.drop_points, "selection": (0.0, 0.0, 0.0)},
        measurements={**record.measurements, "download_size_bytes": Measurement(len(container), "measured")},
    )


def _finished_baseline(setup: Setup, selection: AccuracyResult, latency: Measurement) -> CandidateRecord:
    record = known_baseline(setup)
    found = audited(selection, selection, setup.original.data.split("selection").labels)
    return replace(
        record,
        accuracy={**record.accuracy, "selection": selection.value},
        accuracy_interval={**record.accuracy_interval, "selection": selection.interval},
        measurements={**record.measurements, **found, "latency_ms": latency},
    )


def _decided(record: CandidateRecord, setup: Setup, on_front: bool) -> CandidateRecord:
    feasible = not broken_limits(record, setup.spec.budget)
    return replace(record, feasible=feasible, state="front" if on_front else "finalist")


def conclude(
    setup: Setup, environment: SearchEnvironment, outbox: Outbox, finals: Finals, clock: Clock, out_of_reach: str = ""
) -> SearchOutcome:
    """Decide the best, read the test split once, write the report, log the front.

    Args:
        out_of_reach: why there are no finalists: the answer; the original is then the nearest.
    """
    spec, store = setup.spec, environment.store
    members = front(finals.finalists, spec.budget)
    best = best_of(finals, spec)
    closest = None if best else nearest(finals.finalists or [finals.baseline], spec.budget)
    broken = broken_limits(closest, spec.budget) if closest else {}
    baseline = finals.baseline
    if best is not None:
        chosen = replace(best, state="best")
        best, baseline = supervised(lambda: _read_test(setup, finals, chosen), store.should_stop, math.inf)
        store.save_candidate(baseline)
        store.save_candidate(best)
        members = [best if m.candidate_id == best.candidate_id else m for m in members]
    gaps, gaps_note = _attempted_gaps(setup, finals, best, store, clock.left_s)
    evaluated = [r for r in store.candidates() if r.candidate_id != BASELINE and "validation" in r.accuracy]
    report = build_report(
        ReportInputs(
            search_name=environment.search_name,
            spec=spec,
            baseline=baseline,
            best=best,
            nearest=closest,
            front=members,
            candidates_evaluated=len(evaluated),
            broken_limits=broken,
            gaps=gaps,
            data_sha256=setup.original.data.metadata.data_sha256,
            duration_s=clock.spent_s,
            places=store.phase(PLACES_PHASE),
            techniques=(store.phase(TECHNIQUES_PHASE) or {}).get("techniques", ()),
            rung_steps=setup.evaluator.settings.effort.rung_steps,
            training_dtype=setup.evaluator.settings.training_dtype,
            notes=_once(environment.dataset_notes, _notes(setup, store), finals.notes, gaps_note),
        )
    )
    text = json.dumps(report, indent=1, sort_keys=True, allow_nan=False)
    digest = environment.blobs.put_bytes(text.encode())
    message = out_of_reach or message_of(best, closest, broken, baseline, setup)
    outcome = SearchOutcome(
        state="SUCCEEDED" if best else "INFEASIBLE",
        message=message,
        best=best.candidate_id if best else None,
        nearest=closest.candidate_id if closest else None,
        broken_limits=broken,
        report_sha256=digest,
        front=tuple(m.candidate_id for m in members),
    )
    records = [*finals.replaced, baseline, *finals.finalists, *([best] if best else [])]
    remember_untracked(store, log_ended(outbox, records, environment.blobs, outcome))
    store.append(Event("report", message, {"report_sha256": digest}))
    return outcome


def _read_test(setup: Setup, finals: Finals, best: CandidateRecord) -> tuple[CandidateRecord, CandidateRecord]:
    """Test accuracy of best and original; called once, after the best is fixed (design.md, words)."""
    view, threads = setup.original.data.split("test"), setup.runner.cpus
    original = file_accuracy(setup.original.file, view, setup.reading, None, setup.target, threads)
    result = file_accuracy(finals.files[best.candidate_id], view, setup.reading, original, setup.target, threads)
    drops = {BASELINE: (0.0, 0.0, 0.0), best.candidate_id: drop_points(original, result, view.labels)}
    read = [
        replace(
            record,
            accuracy={**record.accuracy, "test": value.value},
            accuracy_interval={**record.accuracy_interval, "test": value.interval},
            drop_points={**record.drop_points, "test": drops[record.candidate_id]},
        )
        for record, value in ((best, result), (finals.baseline, original))
    ]
    return read[0], read[1]


def _attempted_gaps(
    setup: Setup, finals: Finals, best: CandidateRecord | None, store: CandidateStore, left_s: float
) -> tuple[dict[str, float], list[str]]:
    """The gaps, or why the report has none: they decide nothing."""
    limit_s = min(GAPS_LIMIT_S, left_s)
    if limit_s < _GAPS_AT_LEAST_S:
        return {}, ["the gaps between training and validation accuracy are missing: the wall time was up"]
    try:
        return attempt("gaps", lambda: _gaps(setup, finals, best), store.should_stop, limit_s), []
    except OptionSkippedError as error:
        return {}, [f"the gaps between training and validation accuracy are missing: {error}"]


def _gaps(setup: Setup, finals: Finals, best: CandidateRecord | None) -> dict[str, float]:
    """Train accuracy minus validation accuracy in points, before and after: whether compression overfitted."""
    train = setup.original.data.split("train")
    sample = train.sample(min(GAP_IMAGES, len(train)), setup.spec.effort.seed)
    original = file_accuracy(setup.original.file, sample, setup.reading, None, setup.target, setup.runner.cpus)
    gaps = {BASELINE: 100 * (original.value - finals.baseline.accuracy["validation"])}
    if best is not None:
        after = file_accuracy(finals.files[best.candidate_id], sample, setup.reading, original, setup.target, setup.runner.cpus)
        gaps["best"] = 100 * (after.value - best.accuracy["validation"])
    return gaps


def _once(*notes: Sequence[str]) -> tuple[str, ...]:
    """All notes in order; what the upload and the data both say stands once."""
    return tuple(dict.fromkeys(note for some in notes for note in some))


def network_notes(setup: Setup) -> list[str]:
    """What a reader must know of the network, its outputs, and labels that do not go with them."""
    network = setup.original.network
    notes = [f"the export that made the model left out: {what}" for what in network.erased]
    if not network.size_is_free:
        notes.append(f"the resolution axis is off: {network.size_note}")
    return notes + [note for note in (setup.original.note, setup.reading.note) if note]


def _notes(setup: Setup, store: CandidateStore) -> list[str]:
    """What a reader must know of the data, the network, and the places that are left alone."""
    found = store.phase(PLACES_PHASE)
    return [
        *_latency_notes(setup),
        *effort_notes(store),
        *setup.original.data.metadata.notes,
        *network_notes(setup),
        *([Places.from_json(found).sentence] if found else []),
    ]


def _speed_up(before: Measurement, after: Measurement) -> str:
    """In words; measurements that did not settle are no ground for a number."""
    doubtful = [one for one in (after, before) if one.source == "measured" and not has_settled(one.value, one.spread)]
    if doubtful:
        whose = "its" if doubtful[0] is after else "the original's"
        spread = f"{doubtful[0].value:.3f} ±{doubtful[0].spread:.2g} ms"
        return f"{before.value:.3f} ms before, but {whose} {spread} did not settle enough to say how much faster"
    return f"{before.value / after.value:.2f}x faster"


def _latency_notes(setup: Setup) -> list[str]:
    if setup.target.attached:
        return []
    words = f"{setup.target.name} is not attached: all latencies are {setup.latency_source}, and a limit is met by the upper bound"
    return [f"{words}; accuracies are those of the exported files in ONNX Runtime on the server"]


def best_of(finals: Finals, spec: SearchSpec) -> CandidateRecord | None:
    """The best by the request's preference. An original that meets the budget competes: no worse network is sold as better."""
    return pick([*finals.finalists, finals.baseline], spec.budget, spec.preference)


def message_of(
    best: CandidateRecord | None,
    closest: CandidateRecord | None,
    broken: Mapping[str, float],
    baseline: CandidateRecord,
    setup: Setup,
) -> str:
    """The answer in a sentence."""
    source = setup.latency_source
    if best is not None and best.candidate_id == BASELINE:
        latency = best.measurements["latency_ms"].value
        words = f"the original meets the budget as it is ({latency:.3f} ms {source}), and no candidate is better by"
        return f"{words} preference {setup.spec.preference}: set limits below what it takes to have it compressed"
    if best is not None:
        before, after = baseline.measurements["latency_ms"], best.measurements["latency_ms"]
        drop = best.drop_points["test"][0]
        speed = f"{after.value:.3f} ms {source}, {_speed_up(before, after)}"
        also = "" if broken_limits(baseline, setup.spec.budget) else "; the original meets this budget, too"
        return f"best {best.candidate_id}: {speed}, test accuracy drop {drop:+.2f} points{also}"
    name = closest.candidate_id if closest else "none"
    excess = ", ".join(f"{limit} by {value:.4g}" for limit, value in broken.items())
    decided = "" if source == "measured" else f" (latencies are {source})"
    return f"no candidate meets the budget{decided}; the nearest is {name}, which breaks {excess}"
