"""Right on any CNN and any data, or refused: the cases, int8 on photos, and every exported file read back.

The rest of "trust" lies in ``families`` (line 2, and two of line 3), ``trust_graphs`` (line 3) and ``trust_groups`` (line 4).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import trust_int8
from benchmarks.harness import ROOT, Check, Results, Row, measured_apart, run_tests, test_check
from techniques import lift, onnx_import
from techniques.errors import TechniqueError
from techniques.network import Network

NAME = "trust"
_CHANNELS = "tests/techniques/channels/test_channels.py"
_QUANTIZATION = "tests/techniques/test_quantization.py"
_IN_PLACE = "tests/techniques/lifting/test_inplace.py"
CASES = {
    "nhwc_flatten": f"{_CHANNELS}::test_dead_channels_go_without_effect[nhwc flatten]",
    "shortcut_padded_with_channels": f"{_CHANNELS}::test_a_shortcut_padded_with_channels_loses_the_same_channels_on_both_sides",
    "spatial_pyramid_pooling": f"{_CHANNELS}::test_dead_channels_go_without_effect[pyramid]",
    "halves_that_meet_again": f"{_CHANNELS}::test_halves_that_meet_again_lose_the_same_positions",
    "split_in_four": f"{_CHANNELS}::test_no_part_of_a_split_loses_all_its_channels",
    "spatial_attention": f"{_CHANNELS}::test_dead_channels_go_without_effect[spatial attention]",
    "transposed_tokens": f"{_CHANNELS}::test_dead_channels_go_without_effect[tokens]",
    "gram_pooling": f"{_CHANNELS}::test_what_cannot_go_is_not_offered_and_says_why[gram]",
    "where_needs_booleans": f"{_CHANNELS}::test_dead_channels_go_without_effect[where]",
    "learned_bias_per_channel": f"{_CHANNELS}::test_dead_channels_go_without_effect[learned bias]",
    "exported_in_training_mode": _IN_PLACE,
    "average_with_a_divisor": "tests/techniques/test_export_rewrites.py",
    "nearly_zero_weights_in_int8": f"{_QUANTIZATION}::test_every_bias_stays_within_the_runtimes_integers[nearly no weights]",
}
"""Small inputs that came out wrong, by the test that holds each in this project's words."""
EXPORTING = (
    *(f"tests/techniques/test_{name}.py" for name in (
        "round_trips", "export", "export_rewrites", "quantization", "onnx_import", "onnx_layout", "onnx_counts", "pt2_archive",
        "lift",
    )),
    "tests/techniques/lifting",
    *(f"tests/search/test_{name}.py" for name in (
        "finalists", "finals", "file_proof", "head_searches", "pricing", "job_phases", "attempts", "skipped_options", "file_counts",
        "describe",
    )),
)  # fmt: skip
"""Tests that export files in their own process, or run searches that do."""
_TEST_LIMIT_S, _READ_LIMIT_S = 3600.0, 900.0
_TOLERANCE = 1e-5


def run(results: Results) -> None:
    """Measure what has no row yet, and again what did not hold."""
    missing = [node for node in dict.fromkeys(CASES.values()) if not (results.find(f"test {node}") or {}).get("passed")]
    for row in run_tests(missing) if missing else ():
        results.cell(f"test {row['test']}", lambda row=row: row, again=True)  # type: ignore[misc]
    for tests in EXPORTING:
        cell = f"read back {tests}"
        found = results.find(cell) or {}
        results.cell(cell, lambda tests=tests: read_back(tests), again=bool(found.get("not_read") or "error" in found))  # type: ignore[misc]
    results.cell("efficientnet-lite0", lambda: measured_apart(trust_int8.measure, limit_s=5400.0))


def read_back(tests: str) -> Row:
    """Run some tests, keep what they export, and read each file again."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PARETOPRESS_EXPORTED_FILES": folder, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.exported_files", tests]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_TEST_LIMIT_S, check=False
        )
        last = (done.stdout.strip().splitlines() or ["nothing"])[-1]
        return {"tests": last} | measured_apart(read_all, folder, limit_s=_READ_LIMIT_S)


def read_all(folder: str) -> Row:
    """How many files of a folder are not themselves when they are read, with the tests that wrote them."""
    torch.set_num_threads(1)
    wrong, worst, exact, count = [], 0.0, 0, 0
    for facts in sorted(Path(folder).glob("*.npz")):
        with np.load(facts) as kept:
            images, outputs = torch.from_numpy(kept["images"]), torch.from_numpy(kept["outputs"])
            quantised, test = bool(kept["quantised"]), str(kept["test"])
        path = next(path for path in facts.parent.glob(f"{facts.stem}.*") if path.suffix != ".npz")
        count += 1
        try:
            error = _error(path, images, outputs)
        except TechniqueError as reason:
            wrong.append(f"{path.suffix} of {test}: {str(reason)[:200]}")
            continue
        exact += quantised
        worst = max(worst, 0.0 if quantised else error)
        if error > (0.0 if quantised else _TOLERANCE):
            wrong.append(f"{path.suffix} of {test}: {error:.2g} apart{', quantised' if quantised else ''}")
    return {"files": count, "quantised_files": exact, "not_read": len(wrong), "worst_float_error": worst, "wrong": wrong}


@torch.no_grad()
def _error(path: Path, images: torch.Tensor, outputs: torch.Tensor) -> float:
    back: Network = lift.from_pt2(path) if path.suffix == ".pt2" else onnx_import.from_onnx(path)
    found = back.eval()(images)
    if found.shape != outputs.shape:
        return float("inf")
    return float((found - outputs).abs().max() / outputs.abs().max().clamp_min(1e-30))


def checks(rows: list[Row]) -> list[Check]:
    """Lines 1, 5 and 6."""
    read = [row for row in rows if "files" in row]
    lite = next((row for row in rows if row["cell"] == "efficientnet-lite0"), {})
    return [
        *(test_check(rows, f"trust 1 {name}", node) for name, node in CASES.items()),
        Check("trust 5 agreement of efficientnet-lite0 in int8", lite.get("agreement"), ">= 0.85"),
        Check("trust 5 agreement of efficientnet-lite0 in int8", lite.get("agreement"), ">= 0.95", "goal"),
        Check("trust 5 labelled images right of 20", lite.get("labelled_right"), ">= 17"),
        Check("trust 6 files of tests read again", sum(row["files"] for row in read), ">= 150"),
        Check("trust 6 not themselves", sum(row["not_read"] for row in read) if len(read) == len(EXPORTING) else None, "<= 0"),
    ]
