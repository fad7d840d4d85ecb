"""Hostile files through the real intake and malformed requests at a real server: everything is answered, nothing is left behind.

``python -m benchmarks.service_fuzz 10000`` prints one row.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import grpc

from benchmarks.harness import Row
from paretopress.v1 import dataset_pb2, model_pb2, schedule_pb2, search_pb2
from service.intake.sandbox import warm_up
from service.testing import InProcessServer
from tests.fuzzing.calls import Answer, send_all
from tests.fuzzing.corpus import Corpus, pt2_archive, saved_arrays
from tests.fuzzing.files import SOUND_FORMATS, hostile_files, sound_file
from tests.fuzzing.intake import Verdict, take_all_in, take_in
from tests.fuzzing.payloads import traces
from tests.fuzzing.requests import Names, hostile_calls


def measure(count: int, seed: int = 0) -> Row:
    """``count`` files and ``count`` requests."""
    with tempfile.TemporaryDirectory(prefix="service-fuzz-") as name:
        folder = Path(name)
        corpus = Corpus.make(folder / "outside")
        isolation = warm_up()
        row: Row = {
            "count": count,
            "seed": seed,
            "files_blocked": isolation.files_blocked,
            "network_blocked": isolation.network_blocked,
        }
        sound = [take_in(sound_file(format, corpus), corpus.outside).outcome for format in SOUND_FORMATS]
        row["sound_files_accepted"] = sound.count("accepted") / len(sound)
        row |= _files(corpus, count, seed)
        return row | _requests(corpus, folder, count, seed)


def _files(corpus: Corpus, count: int, seed: int) -> Row:
    begin, verdicts = time.monotonic(), list[Verdict]()
    for number, verdict in enumerate(take_all_in(hostile_files(corpus, seed), count, corpus.outside), 1):
        verdicts.append(replace(verdict, file=replace(verdict.file, content=b"")))  # ten thousand files are gigabytes
        if not verdict.is_fine:
            what = f"file {number} {verdict.file.format} {verdict.file.name}: {verdict.outcome}"
            _report(f"{what} {verdict.message} {verdict.detail[-800:]} {verdict.strays}")
    return {
        "files": len(verdicts),
        "files_wall_s": round(time.monotonic() - begin, 1),
        "files_by_format": dict(Counter(v.file.format for v in verdicts)),
        "files_outcomes": dict(Counter(v.outcome for v in verdicts).most_common()),
        "files_longest_s": round(max(v.wall_s for v in verdicts), 2),
        "files_crashes": sum(v.outcome == "sandbox crash" for v in verdicts),
        "files_timeouts": sum(v.outcome == "sandbox timeout" for v in verdicts),
        "files_untyped": sum(v.outcome == "untyped" for v in verdicts),
        "files_strays": sum(bool(v.strays) for v in verdicts),
    }


def _requests(corpus: Corpus, folder: Path, count: int, seed: int) -> Row:
    data_dir = folder / "data"
    with InProcessServer(data_dir) as server, grpc.insecure_channel(server.address) as channel:
        names = existing_names(server, corpus, folder)
        begin, answers = time.monotonic(), list[Answer]()
        for number, answer in enumerate(send_all(hostile_calls(names, seed), count, channel), 1):
            answers.append(answer)
            if not answer.is_fine:
                _report(f"request {number} {answer.call.path}: {answer.code.name} {answer.reason} {answer.message[:300]}")
        wall_s = time.monotonic() - begin
        with server.client() as client:
            alive = any(True for _ in client.list_searches())
    scratch = [str(path) for path in (data_dir / "scratch").iterdir()]
    outside = [path.name for path in folder.iterdir() if path.name not in ("data", "model.pt2", "data.npz")]
    return {
        "requests": len(answers),
        "requests_wall_s": round(wall_s, 1),
        "requests_methods": len({a.call.path for a in answers}),
        "requests_outcomes": dict(Counter(a.code.name for a in answers).most_common()),
        "requests_reasons": dict(Counter(a.reason for a in answers).most_common()),
        "requests_untyped": sum(not a.is_fine for a in answers),
        "requests_strays": len(scratch) + len(outside) + len(traces([folder], corpus.outside)),
        "server_alive": alive,
    }


def existing_names(server: InProcessServer, corpus: Corpus, folder: Path) -> Names:
    """A model, a dataset, a target, a calibration, a schedule and a search that has ended."""
    (folder / "model.pt2").write_bytes(pt2_archive(corpus.pt2))
    (folder / "data.npz").write_bytes(saved_arrays(corpus.arrays))
    preprocessing = dataset_pb2.Preprocessing(height=8, width=8, channels=1, resize=dataset_pb2.Preprocessing.STRETCH)
    with server.client() as client:
        model = client.upload_model(folder / "model.pt2", model_pb2.Model.PT2, model_id="m").name
        dataset = client.upload_dataset(folder / "data.npz", dataset_pb2.Dataset.NPZ, preprocessing, dataset_id="d").name
        target = "projects/default/targets/cpu-ort-1t"
        budget = search_pb2.Budget(latency_ms=1.5, max_accuracy_drop_points=1.0)
        wanted = search_pb2.Search(model=model, dataset=dataset, target=target, budget=budget)
        search = client.create_search(wanted, search_id="ended").name
        client.cancel_search(search)
        schedule = client.create_schedule(schedule_pb2.Schedule(cron="0 0 * * *", template=wanted), schedule_id="nightly").name
        calibration = client.calibrate_target(target).name
        board = next(one.name for one in client.list_targets() if not one.attached)
    return {
        "candidate": f"{search}/candidates/baseline",
        "calibration": calibration,
        "schedule": schedule,
        "search": search,
        "model": model,
        "dataset": dataset,
        "target": target,
        "board": board,
        "project": "projects/default",
    }


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0), indent=2))
