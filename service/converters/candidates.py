"""Candidates to protos."""

from __future__ import annotations

from paretopress.v1 import measurement_pb2, search_pb2
from search.protocols import CandidateRecord, Measurement
from service.converters import enums
from service.converters.searches import duration


def candidate_to_proto(search_name: str, record: CandidateRecord) -> search_pb2.Candidate:
    """A candidate as stored."""
    return search_pb2.Candidate(
        name=f"{search_name}/candidates/{record.candidate_id}",
        state=search_pb2.Candidate.State.Value(record.state.upper()),
        trial_number=record.trial_number,
        recipe_json=record.recipe_json,
        rung=record.rung,
        last_steps=record.last_steps,
        seed=record.seed,
        accuracies={split: _accuracy(record, split) for split in record.accuracy},
        measurements={name: measurement_to_proto(value) for name, value in record.measurements.items()},
        artifacts=[search_pb2.Artifact(artifact=name, sha256=digest) for name, digest in sorted(record.artifacts.items())],
        feasible=record.feasible,
        error=record.error,
        duration=duration(record.duration_s),
        node=record.node,
    )


def _accuracy(record: CandidateRecord, split: str) -> measurement_pb2.Accuracy:
    low, high = record.accuracy_interval.get(split, (None, None))
    drop, drop_low, drop_high = record.drop_points.get(split, (None, None, None))
    return measurement_pb2.Accuracy(
        value=record.accuracy[split], low=low, high=high, drop_points=drop, drop_points_low=drop_low, drop_points_high=drop_high
    )


def measurement_to_proto(measurement: Measurement) -> measurement_pb2.Measurement:
    """A number with its doubt."""
    return measurement_pb2.Measurement(
        value=measurement.value,
        spread=measurement.spread,
        source=enums.SOURCES.number(measurement.source),
        rounds=measurement.rounds,
    )
