"""Files of trials on another machine: sent once by content, counted, and handed back. No Ray: the server is called directly."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from search.execution import file_server, node_files
from search.execution.file_server import FileServer
from search.execution.node_files import NodeFiles, cache_folder, make_room
from search.execution.trial import AwayEvaluator, TrialPlan
from tests.waiting import wait_until

DATA = b"pixels" * 100


@dataclass(frozen=True)
class Files:
    """A `TrialFiles` of one input."""

    data: Path
    checkpoints: Path
    interrupt: Path

    @property
    def inputs(self) -> tuple[Path, ...]:
        return (self.data, self.data.with_name("never written"))

    def moved(self, inputs: Mapping[Path, Path], checkpoints: Path, interrupt: Path) -> Files:
        return Files(inputs[self.data], checkpoints, interrupt)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """The worker's files; blocks are small, and the second machine does not see them."""
    monkeypatch.setattr(file_server, "BLOCK_BYTES", 64)
    monkeypatch.setattr(node_files, "BLOCK_BYTES", 64)
    (tmp_path / "worker" / "checkpoints").mkdir(parents=True)
    (tmp_path / "worker" / "data").write_bytes(DATA)
    return Files(tmp_path / "worker" / "data", tmp_path / "worker" / "checkpoints", tmp_path / "worker" / "interrupt")


@pytest.fixture
def server(files: Files) -> FileServer:
    return FileServer(files.inputs, files.checkpoints, files.interrupt)


@pytest.fixture
def away(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeFiles:
    """On a machine where no path of the worker's exists."""
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    return NodeFiles(server, "node", tmp_path / "cache")


def test_files_are_sent_once_to_a_node_however_many_processes_ask(
    files: Files, server: FileServer, away: NodeFiles, tmp_path: Path
) -> None:
    others = [NodeFiles(server, "node", tmp_path / "cache") for _ in range(3)]
    threads = [threading.Thread(target=one.place, args=(files,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    here = away.place(files)
    assert here.data != files.data  # type: ignore[attr-defined]
    assert here.data.read_bytes() == DATA  # type: ignore[attr-defined]
    assert server.traffic() == {"node": {"sent_bytes": len(DATA), "received_bytes": 0, "files": {"data": len(DATA)}}}


def test_nothing_is_sent_where_the_path_has_the_right_content(files: Files, server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    here = NodeFiles(server, "node", tmp_path / "cache").place(files)
    assert here.inputs == files.inputs
    assert server.traffic() == {}


def test_a_path_that_may_not_be_looked_at_is_copied(
    files: Files, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's home on a machine with a user of the same name; root may look everywhere, so it is pretended."""

    def refuse(path: Path) -> bool:
        raise PermissionError(f"[Errno 13] Permission denied: '{path}'")

    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(Path, "is_file", refuse)
    here = NodeFiles(server, "node", tmp_path / "cache").place(files)
    assert here.inputs[0].read_bytes() == DATA
    assert here.inputs[0].parent == tmp_path / "cache"


def test_another_file_at_the_same_path_is_not_taken_for_it(files: Files, server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    right = files.data.read_bytes()
    files.data.write_bytes(right[::-1])
    served = NodeFiles(server, "node", tmp_path / "cache")
    with pytest.raises(OSError, match="damaged"):  # the server's own file has changed, too: nothing false is ever used
        served.place(files)
    assert [p.name for p in (tmp_path / "cache").iterdir() if len(p.name) == 64] == []


def test_checkpoints_come_back_and_go_to_the_next_node(files: Files, server: FileServer, away: NodeFiles, tmp_path: Path) -> None:
    here = away.place(files)
    (here.checkpoints / "c0007.step2").write_bytes(DATA)
    (here.checkpoints / "c0007.step2.99.tmp").write_bytes(b"half")
    (here.checkpoints / "c0008.step0").write_bytes(b"another trial's")
    away.hand_in(7)
    away.hand_in(7)
    assert {path.name: path.read_bytes() for path in files.checkpoints.iterdir()} == {"c0007.step2": DATA}
    assert server.traffic()["node"]["received_bytes"] == len(DATA)
    away.close()
    (tmp_path / "second").mkdir()
    second = NodeFiles(server, "second", tmp_path / "second")
    there = second.place(files)
    second.begin(7)
    assert (there.checkpoints / "c0007.step2").read_bytes() == DATA
    second.end(7)
    assert list(there.checkpoints.iterdir()) == []


def test_what_interrupts_the_worker_interrupts_everywhere(files: Files, away: NodeFiles) -> None:
    here = away.place(files)
    files.interrupt.touch()
    assert wait_until(here.interrupt.exists, timeout_s=5)


def test_the_server_gives_away_nothing_else(files: Files, server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(FileNotFoundError):
        server.block(str(tmp_path / "secret"), 0, "node")
    with pytest.raises(FileNotFoundError):
        server.block("../data", 0, "node")


def test_old_copies_go_and_those_in_use_stay(tmp_path: Path) -> None:
    for age, name in enumerate(("a" * 64, "b" * 64, "c" * 64)):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    make_room(tmp_path, keep={"a" * 64}, most_bytes=20)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["a", "c"]


def test_two_processes_may_make_room_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a" * 64, "b" * 64):
        (tmp_path / name).write_bytes(b"x" * 10)
    stat = Path.stat

    def stat_too_late(path: Path, **options: bool) -> os.stat_result:
        if path.name == "a" * 64:
            path.unlink(missing_ok=True)  # the other process has just done so
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_too_late)
    make_room(tmp_path, keep=set(), most_bytes=0)
    assert list(tmp_path.iterdir()) == []


def test_a_fetch_that_was_killed_leaves_nothing_for_long(
    files: Files, server: FileServer, away: NodeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by review: parts of files stayed for ever and were not counted, and so did one lock for each file."""
    dead = tmp_path / "cache" / "process-999999999"  # beyond the kernel's highest
    away._own.rename(dead)
    away._own = dead
    monkeypatch.setattr(server, "block", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        away.place(files)
    monkeypatch.undo()
    NodeFiles(server, "node", tmp_path / "cache").close()
    left = [path.name for path in (tmp_path / "cache").iterdir()]
    assert len(left) == 1
    assert len(left[0]) == len("0.lock")


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (tmp_path / f"paretopress-{os.getuid()}").symlink_to(theirs)
    with pytest.raises(PermissionError, match="somebody else"):
        cache_folder()


def test_an_evaluator_runs_on_copies_and_goes_on_where_another_process_died(files: Files, away: NodeFiles) -> None:
    seen: list[tuple[int, int, bytes, list[str]]] = []

    class Evaluator:
        def __init__(self, files: Files) -> None:
            self.files = files

        def with_files(self, files: Files) -> Evaluator:
            return Evaluator(files)

        def evaluate(self, plan: TrialPlan, rung: int) -> Mapping[str, object]:
            found = sorted(path.name for path in self.files.checkpoints.iterdir())
            seen.append((plan.number, rung, self.files.data.read_bytes()[:6], found))
            (self.files.checkpoints / f"c{plan.number:04d}.step0").write_bytes(str(rung).encode())
            return {}

    (files.checkpoints / "c0003.step0").write_bytes(b"0")
    evaluator = AwayEvaluator(Evaluator(files), lambda: away)
    evaluator.evaluate(TrialPlan(3, rung=1), 1)
    evaluator.evaluate(TrialPlan(3, rung=1), 2)
    evaluator.evaluate(TrialPlan(4), 0)
    assert seen == [(3, 1, b"pixels", ["c0003.step0"]), (3, 2, b"pixels", ["c0003.step0"]), (4, 0, b"pixels", [])]
    assert (files.checkpoints / "c0003.step0").read_bytes() == b"2"
