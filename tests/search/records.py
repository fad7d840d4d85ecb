"""Records for tests: a candidate with the few numbers that a test cares about."""

from __future__ import annotations

from search.protocols import CandidateRecord, Measurement
from techniques.recipe import Recipe, Step


def candidate(
    number: int,
    drop_points: float,
    latency_ms: float,
    onnx_size_bytes: int = 1000,
    spread_ms: float = 0.0,
    split: str = "selection",
    drop_half_width: float = 0.5,
) -> CandidateRecord:
    """A candidate read on one split."""
    recipe = Recipe((Step("structured_pruning", {"ratios": {"stem": number / 100}}),))
    return CandidateRecord(
        candidate_id=f"c{number:04d}",
        trial_number=number,
        recipe_json=recipe.to_json(),
        seed=0,
        rung=1,
        accuracy={split: 0.9 - drop_points / 100},
        accuracy_interval={split: (0.88, 0.91)},
        drop_points={split: (drop_points, drop_points - drop_half_width, drop_points + drop_half_width)},
        measurements={
            "latency_ms": Measurement(latency_ms, "measured", spread_ms, 3),
            "onnx_size_bytes": Measurement(onnx_size_bytes, "measured"),
            "macs": Measurement(1e6, "counted"),
        },
    )


def latencies_in(value: object) -> list[dict[str, object]]:
    """Every latency in a report, however deep."""
    if isinstance(value, list):
        return [one for item in value for one in latencies_in(item)]
    if not isinstance(value, dict):
        return []
    own = [item for name, item in value.items() if name.endswith("latency_ms") and isinstance(item, dict) and "source" in item]
    return own + [one for item in value.values() for one in latencies_in(item)]
